package udp

import (
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cmsg makes a control message.
func cmsg(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// extended makes the data of one that tells of an error, with the address of who
// reported it.
func extended(ee unix.SockExtendedErr) []byte {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&ee)), unsafe.Sizeof(ee))
	return append(slices.Clone(b), make([]byte, unix.SizeofSockaddrInet6)...)
}

func needed(mtu uint32) unix.SockExtendedErr {
	return unix.SockExtendedErr{Errno: uint32(unix.EMSGSIZE), Origin: unix.SO_EE_ORIGIN_ICMP, Type: 3, Code: 4, Info: mtu}
}

func tooBig6(mtu uint32) unix.SockExtendedErr {
	return unix.SockExtendedErr{Errno: uint32(unix.EMSGSIZE), Origin: unix.SO_EE_ORIGIN_ICMP6, Type: 2, Info: mtu}
}

func TestParseError(t *testing.T) {
	v4 := func(ee unix.SockExtendedErr) []byte { return cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, extended(ee)) }
	v6 := func(ee unix.SockExtendedErr) []byte { return cmsg(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, extended(ee)) }
	tests := []struct {
		name    string
		control []byte
		want    queued
		ok      bool
	}{
		{"fragmentation needed", v4(needed(1400)), queued{mtu: 1400}, true},
		{"packet too big", v6(tooBig6(1400)), queued{mtu: 1400}, true},
		{"behind another message", append(cmsg(unix.SOL_SOCKET, unix.SO_TIMESTAMP, make([]byte, 16)), v4(needed(1400))...), queued{mtu: 1400}, true},
		{"smallest", v4(needed(68)), queued{mtu: 68}, true},
		{"less than can be", v4(needed(67)), queued{}, true},
		{"smallest IPv6", v6(tooBig6(1280)), queued{mtu: 1280}, true},
		{"less than can be of IPv6", v6(tooBig6(1279)), queued{}, true},
		{"more than can be", v4(needed(1 << 31)), queued{}, true},
		{"port unreachable", v4(unix.SockExtendedErr{Origin: unix.SO_EE_ORIGIN_ICMP, Type: 3, Code: 3, Info: 1400}), queued{}, true},
		{"ICMPv6 unreachable", v6(unix.SockExtendedErr{Origin: unix.SO_EE_ORIGIN_ICMP6, Type: 1, Info: 1400}), queued{}, true},
		{"our own", v4(unix.SockExtendedErr{Origin: unix.SO_EE_ORIGIN_LOCAL, Type: 3, Code: 4, Info: 1400}), queued{local: true}, true},
		{"another level", cmsg(unix.SOL_UDP, unix.IP_RECVERR, extended(needed(1400))), queued{}, false},
		{"another type", cmsg(unix.IPPROTO_IP, unix.IP_TTL, extended(needed(1400))), queued{}, false},
		{"short", cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, extended(needed(1400))[:15]), queued{}, false},
		{"none", nil, queued{}, false},
		{"cut", v4(needed(1400))[:unix.CmsgLen(8)], queued{}, false},
		{"half a header", v4(needed(1400))[:unix.SizeofCmsghdr-1], queued{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := parseError(tt.control); got != tt.want || ok != tt.ok {
				t.Errorf("parseError = %+v, %v; want %+v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func FuzzParseError(f *testing.F) {
	f.Add(cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, extended(needed(1400))))
	f.Add(cmsg(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, extended(tooBig6(1400))))
	f.Add(append(cmsg(unix.SOL_SOCKET, unix.SO_TIMESTAMP, nil), cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, nil)...))
	f.Fuzz(func(t *testing.T, control []byte) {
		e, ok := parseError(control)
		if e.mtu != 0 && (!ok || e.local || e.mtu < leastMTU4 || e.mtu > MaxDatagram) {
			t.Errorf("parseError = %+v, %v", e, ok)
		}
	})
}

func FuzzSegment(f *testing.F) {
	f.Add(cmsg(unix.SOL_UDP, unix.UDP_GRO, []byte{0x5c, 5, 0, 0}), 24)
	f.Add(cmsg(unix.SOL_UDP, unix.UDP_GRO, []byte{0, 0, 0, 0x80}), 24)
	f.Add(cmsg(unix.SOL_UDP, unix.UDP_GRO, nil), 24)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		var c control
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&c)), unsafe.Sizeof(c)), b)
		got := c.segment(n)
		if got < 0 || got > 0 && (n < unix.CmsgLen(4) || c.hdr.Type != unix.UDP_GRO) {
			t.Errorf("segment = %d", got)
		}
	})
}

// TestOnTooBig: ICMP errors are told, with where the datagrams went, whichever of
// the two sockets sent them and a hash would choose; and what is sent to others,
// and what arrives, is not disturbed.
func TestOnTooBig(t *testing.T) {
	const mtu, ports = 1372, 16
	onWire(t, func(t *testing.T, w *wire, host, far, other netip.Addr) {
		c := listenOn(t, host)
		var told []tooBig
		c.OnTooBig(func(dst netip.AddrPort, mtu int) { told = append(told, tooBig{dst, mtu}) })
		for _, df := range []bool{true, false} {
			if !df && far.Is4() {
				continue // a router fragments it
			}
			var want []tooBig
			for port := range uint16(ports) {
				to := netip.AddrPortFrom(far, 6783+port)
				want = append(want, tooBig{to, mtu})
				w.send(c, message(1, 1000, to), df)
				w.answerTooBig(w.next(far).frame, mtu)
				w.waitMTU(c, to, mtu)
				w.send(c, message(2, 1400, netip.AddrPortFrom(other, 513)), df)
				w.next(other)
			}
			w.send(c, message(3, 30, c.LocalAddr()), df)
			if got := readAll(t, c, 1); got[0].N != 30 {
				t.Errorf("%d bytes arrived, want 30", got[0].N)
			}
			// What was left in the queue is told by the next read.
			w.send(c, message(4, 40, c.LocalAddr()), df)
			readAll(t, c, 1)
			if !slices.Equal(told, want) {
				t.Errorf("df %v: told %v, want %v", df, told, want)
			}
			told = nil
		}
	})
}

// send sends one datagram.
func (w *wire) send(c *Conn, m Message, df bool) {
	w.t.Helper()
	if n, err := c.WriteBatch([]Message{m}, df); n != 1 || err != nil {
		w.t.Fatalf("WriteBatch(%d bytes to %v, df %v) = %d, %v", m.N, m.Addr, df, n, err)
	}
}

// TestErrorFlood: of very many ICMP errors only so many are listened to, and then
// none for a while; datagrams go both ways all the time.
func TestErrorFlood(t *testing.T) {
	onWire(t, func(t *testing.T, w *wire, host, far, other netip.Addr) {
		c := listenOn(t, host)
		told := 0
		c.OnTooBig(func(netip.AddrPort, int) { told++ })
		to, toOther := netip.AddrPortFrom(far, 6783), netip.AddrPortFrom(other, 513)
		w.send(c, message(1, 1000, to), true)
		about := w.next(far).frame
		for i := range 3 * gateMost {
			w.answerTooBig(about, 1300+i%2)
			if i%100 == 0 {
				w.send(c, message(2, 1200, toOther), true)
				w.send(c, message(3, 30, c.LocalAddr()), true)
				if got := readAll(t, c, 1); got[0].N != 30 {
					t.Fatalf("%d bytes arrived, want 30", got[0].N)
				}
			}
		}
		if g := c.reader.errors.gate; !g.closed || told > gateMost {
			t.Errorf("after %d errors %d were told, the gate is shut: %v", 3*gateMost, told, g.closed)
		}
		// After a while there is an ear for them again.
		c.reader.errors.gate.until = time.Now()
		told = 0
		w.send(c, message(4, 40, c.LocalAddr()), true)
		readAll(t, c, 1) // opens it
		w.answerTooBig(about, 1290)
		w.send(c, message(5, 50, c.LocalAddr()), true)
		if readAll(t, c, 1); told != 1 {
			t.Errorf("%d errors were told, want 1", told)
		}
	})
}
