package routing

import (
	"slices"
	"testing"

	"meshd/internal/frame"
)

// arp builds an ARP payload for Ethernet and IPv4.
func arp(op byte, sender frame.MAC, senderIP, targetIP [4]byte) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, sender[:], senderIP[:], make([]byte, 6), targetIP[:])
}

// advertisement builds an IPv6 packet with a neighbour advertisement.
func advertisement(flags byte) []byte {
	b := make([]byte, 40+32)
	b[0], b[5], b[6], b[7] = 0x60, 32, 58, 255
	b[40], b[44] = 136, flags
	return b
}

func TestAnnounces(t *testing.T) {
	me, other := hostMAC(1), hostMAC(2)
	ip, otherIP := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
	allNodes := frame.MAC{0x33, 0x33, 0, 0, 0, 1}
	vlan := append([]byte{0, 5, 8, 6}, arp(1, me, ip, ip)...)
	tests := []struct {
		name string
		f    frame.Frame
		want bool
	}{
		{"gratuitous ARP request", ethernet(broadcastMAC, me, 0x0806, arp(1, me, ip, ip)...), true},
		{"gratuitous ARP reply", ethernet(broadcastMAC, me, 0x0806, arp(2, me, ip, ip)...), true},
		{"gratuitous ARP in a VLAN", ethernet(broadcastMAC, me, 0x8100, vlan...), true},
		{"for somebody else", ethernet(broadcastMAC, other, 0x0806, arp(1, me, ip, ip)...), false},
		{"ARP question", ethernet(broadcastMAC, me, 0x0806, arp(1, me, ip, otherIP)...), false},
		{"to one host", ethernet(other, me, 0x0806, arp(2, me, ip, ip)...), false},
		{"ARP cut short", ethernet(broadcastMAC, me, 0x0806, arp(1, me, ip, ip)[:27]...), false},
		{"ARP without a body", ethernet(broadcastMAC, me, 0x0806), false},
		{"VLAN tag cut short", ethernet(broadcastMAC, me, 0x8100, 0, 5), false},
		{"unsolicited advertisement", ethernet(allNodes, me, 0x86dd, advertisement(0x20)...), true},
		{"solicited advertisement", ethernet(allNodes, me, 0x86dd, advertisement(0x60)...), false},
		{"advertisement cut short", ethernet(allNodes, me, 0x86dd, advertisement(0x20)[:63]...), false},
		{"other IPv6", ethernet(allNodes, me, 0x86dd, make([]byte, 100)...), false},
		{"IPv4 broadcast", ethernet(broadcastMAC, me, 0x0800, make([]byte, 100)...), false},
	}
	for _, tt := range tests {
		if got := announces(tt.f.Data); got != tt.want {
			t.Errorf("%s: announces = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzAnnounces(f *testing.F) {
	me, ip := hostMAC(1), [4]byte{10, 0, 0, 1}
	f.Add(ethernet(broadcastMAC, me, 0x0806, arp(1, me, ip, ip)...).Data)
	f.Add(ethernet(broadcastMAC, me, 0x86dd, advertisement(0)...).Data)
	f.Add(ethernet(broadcastMAC, me, 0x8100, 0, 1, 8, 6).Data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < frame.HeaderLen {
			return
		}
		if announces(data) && data[0]&1 == 0 {
			t.Error("a frame to one host announces")
		}
	})
}
