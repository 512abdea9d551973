package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"meshd/internal/lab"
)

// experimental is the EtherType for local experiments, IEEE 802.
const experimental = 0x88b5

// frame is an Ethernet frame with a text as its payload, tagged if vlan is not 0.
func frame(dst, src net.HardwareAddr, vlan uint16, text string) []byte {
	f := append(bytes.Clone(dst), src...)
	if vlan != 0 {
		f = binary.BigEndian.AppendUint16(f, 0x8100)
		f = binary.BigEndian.AppendUint16(f, vlan)
	}
	f = binary.BigEndian.AppendUint16(f, experimental)
	f = append(f, text...)
	for len(f) < 60 {
		f = append(f, 0) // the least an Ethernet carries
	}
	return f
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// mac is the MAC of the container's interface.
func (b *box) mac() net.HardwareAddr {
	b.w.Helper()
	link, err := b.Look(lab.ContainerLink)
	b.w.must(err)
	return link.MAC
}

// send sends a frame out of the container.
func (b *box) send(f []byte) {
	b.w.Helper()
	b.w.must(b.SendFrame(lab.ContainerLink, f))
}

// capture collects frames that contain the text.
func (b *box) capture(text string) *lab.Capture {
	b.w.Helper()
	c, err := b.Capture(lab.ContainerLink, func(f []byte) bool { return bytes.Contains(f, []byte(text)) })
	b.w.must(err)
	return c
}

// captured waits until a capture has n frames.
func (w *world) captured(what string, c *lab.Capture, n int) [][]byte {
	w.Helper()
	w.eventually(what, func(context.Context) error {
		if got := len(c.Frames()); got < n {
			return fmt.Errorf("%d of %d frames", got, n)
		}
		return nil
	})
	return c.Frames()
}

// threeHosts is a full mesh with a container each:
//
//	weave01 ──┐
//	weave02 ──┼── lan
//	weave03 ──┘
func threeHosts(t *testing.T, env ...string) (*world, []*box) {
	t.Helper()
	w := newWorld(t)
	lan := w.lan("lan")
	hosts := []*host{
		w.host("weave01", lan.at("10.0.0.1/24")),
		w.host("weave02", lan.at("10.0.0.2/24")),
		w.host("weave03", lan.at("10.0.0.3/24")),
	}
	for _, h := range hosts {
		h.Env = env
	}
	w.mesh(hosts...)
	boxes := w.boxes(hosts...)
	w.answers(boxes...)
	w.settled(hosts...)
	return w, boxes
}

func TestTraffic(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
	}{
		{"no password", nil},
		{"password", []string{"MESHD_PASSWORD=a long enough password for a test"}},
		{"sleeve, plain", []string{"MESHD_TRANSPORTS=sleeve"}},
		{"sleeve, password", []string{"MESHD_TRANSPORTS=sleeve", "MESHD_PASSWORD=a long enough password for a test"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, boxes := threeHosts(t, tt.env...)
			for _, kind := range []struct {
				name  string
				check func(w *world, boxes []*box)
			}{
				{"IPv4 of every size", everySize},
				{"IPv6", ipv6},
				{"ARP", arp},
				{"multicast", multicast},
				{"802.1Q", vlans},
				{"TCP", transfers},
			} {
				w.Run(kind.name, func(t *testing.T) {
					sub := *w
					sub.T = t
					kind.check(&sub, boxes)
				})
			}
		})
	}
}

// everySize pings with payloads up to the MTU and beyond it.
func everySize(w *world, boxes []*box) {
	link, err := boxes[0].Look(lab.ContainerLink)
	w.must(err)
	const headers = 20 + 8
	for _, size := range []int{0, 1, 17, 18, 1000, link.MTU - headers - 1, link.MTU - headers, link.MTU, 8000} {
		if _, err := boxes[0].PingSize(w.within(patience), boxes[2].addr(), size); err != nil {
			w.Errorf("payload of %d bytes: %v", size, err)
		}
	}
}

// ipv6 shows that neighbour discovery works, which is multicast.
func ipv6(w *world, boxes []*box) {
	for _, b := range boxes[1:] {
		if _, err := boxes[0].PingOnce(w.within(patience), b.addr6()); err != nil {
			w.Error(err)
		}
	}
}

// arp asks for a container's MAC by a broadcast of our own.
func arp(w *world, boxes []*box) {
	asker, owner := boxes[1], boxes[2]
	sender := netip.MustParseAddr("192.168.99.77") // nobody's, so that only we hear the answer
	request := append(bytes.Clone(broadcast), asker.mac()...)
	request = append(request, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	request = append(request, asker.mac()...)
	request = append(request, sender.AsSlice()...)
	request = append(request, make([]byte, 6)...)
	request = append(request, owner.addr().AsSlice()...)
	want := append([]byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2}, owner.mac()...)
	want = append(want, owner.addr().AsSlice()...)
	want = append(want, asker.mac()...)
	replies := asker.capture(string(want))
	defer replies.Close()
	asker.send(request)
	w.captured("ARP reply", replies, 1)
}

// multicast sends to a group that the other containers have joined.
func multicast(w *world, boxes []*box) {
	const group = "239.7.7.7:7007"
	var members []net.PacketConn
	for _, b := range boxes[1:] {
		c, err := b.ListenMulticast("udp4", lab.ContainerLink, group)
		w.must(err)
		defer c.Close()
		members = append(members, c)
	}
	conn, err := boxes[0].Dial(w.within(patience), "udp", group)
	w.must(err)
	defer conn.Close()
	_, err = conn.Write([]byte("to all members"))
	w.must(err)
	for i, c := range members {
		c.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 100)
		n, from, err := c.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "to all members" {
			w.Errorf("member %d received %q from %v, %v", i+1, buf[:n], from, err)
		}
	}
}

// vlans sends tagged frames: a broadcast and one to a container.
func vlans(w *world, boxes []*box) {
	const tag = 3<<13 | 42 // priority 3, VLAN 42
	text := "tagged frame"
	var captures []*lab.Capture
	for _, b := range boxes[1:] {
		c := b.capture(text)
		defer c.Close()
		captures = append(captures, c)
	}
	all := frame(broadcast, boxes[0].mac(), tag, text+" to all")
	one := frame(boxes[2].mac(), boxes[0].mac(), tag, text+" to one")
	boxes[0].send(all)
	boxes[0].send(one)
	if got := w.captured("tagged frames", captures[1], 2); !bytes.Equal(got[0], all) || !bytes.Equal(got[1], one) {
		w.Errorf("captured %x, want %x and %x", got, all, one)
	}
	if got := w.captured("tagged broadcast", captures[0], 1); !bytes.Equal(got[0], all) {
		w.Errorf("captured %x, want %x", got, all)
	}
}

// transfers sends megabytes over TCP between all containers.
func transfers(w *world, boxes []*box) {
	const size = 8 << 20
	for _, a := range boxes {
		for _, b := range boxes {
			if a == b {
				continue
			}
			took, err := lab.Transfer(w.within(patience), a.Namespace, b.Namespace, b.addr(), size)
			if err != nil {
				w.Error(err)
				continue
			}
			w.Logf("%s to %s: %d MiB in %v", a.host.NickName, b.host.NickName, size>>20, took.Round(time.Millisecond))
		}
	}
}

// TestJumbo: with an underlay that carries 9000 bytes and a bridge told so,
// jumbo frames pass.
//
//	weave01 ── lan, MTU 9000 ── weave02
func TestJumbo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lan := w.lan("lan")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24"))
	lan.mtu(w, 9000, a, b)
	a.Args = []string{"--bridge-mtu", "8800"}
	b.Args = a.Args
	w.mesh(a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	w.eventually("a jumbo frame passes uncut", func(ctx context.Context) error {
		limited, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := boxes[0].PingSize(limited, boxes[1].addr(), 8800-28)
		return err
	})
	if _, err := lab.Transfer(w.within(patience), boxes[0].Namespace, boxes[1].Namespace, boxes[1].addr(), 16<<20); err != nil {
		t.Error(err)
	}
}

// mtu sets the MTU of the LAN and of the hosts' interfaces on it.
func (l *lan) mtu(w *world, mtu int, hosts ...*host) {
	w.Helper()
	links, err := l.Links()
	w.must(err)
	for _, link := range links {
		if link != "lo" {
			w.must(l.SetMTU(link, mtu))
		}
	}
	for _, h := range hosts {
		for i, p := range h.plugs {
			if p.lan == l {
				w.must(h.Host.SetMTU(fmt.Sprintf("eth%d", i), mtu))
			}
		}
	}
}

// TestSmallUnderlay: an underlay that carries less than the bridge does nobody
// harm: TCP passes, datagrams of full size are cut or their sender is told.
//
//	weave01 ── lan, MTU 1280 ── weave02
func TestSmallUnderlay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lan := w.lan("lan")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24"))
	lan.mtu(w, 1280, a, b)
	for _, h := range []*host{a, b} {
		h.Env = []string{"MESHD_PASSWORD=a long enough password for a test"}
		h.Args = []string{"--bridge-mtu", "1376"}
	}
	w.mesh(a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	for i, from := range boxes {
		to := boxes[1-i]
		if _, err := lab.Transfer(w.within(patience), from.Namespace, to.Namespace, to.addr(), 4<<20); err != nil {
			t.Error(err)
		}
		if _, err := lab.Transfer(w.within(patience), from.Namespace, to.Namespace, to.addr6(), 4<<20); err != nil {
			t.Error(err)
		}
	}
	w.eventually("a datagram of full size passes", func(ctx context.Context) error {
		limited, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := boxes[0].PingSize(limited, boxes[1].addr(), 1376-28)
		return err
	})
}

// TestIPv6Underlay: hosts that have only IPv6.
//
//	weave01 fd00::1 ──┐
//	weave02 fd00::2 ──┼── lan
//	weave03 fd00::3 ──┘
func TestIPv6Underlay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lan := w.lan("lan")
	hosts := []*host{
		w.host("weave01", lan.at("fd00::1/64")),
		w.host("weave02", lan.at("fd00::2/64")),
		w.host("weave03", lan.at("fd00::3/64")),
	}
	hosts[0].start()
	hosts[1].start("fd00::1")
	hosts[2].start("[fd00::1]:6783")
	w.joined(hosts...)
	boxes := w.boxes(hosts...)
	w.answers(boxes...)
	if _, err := lab.Transfer(w.within(patience), boxes[1].Namespace, boxes[2].Namespace, boxes[2].addr(), 4<<20); err != nil {
		t.Error(err)
	}
}
