package udp

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// canaryWait is how long a trial may take: loopback loses nothing, but a machine
// that starts is busy.
const canaryWait = 3 * time.Second

// errLoopback says that not even a single datagram passes loopback.
var errLoopback = errors.New("nothing passes loopback")

// Probe tries through loopback, over IPv4 and IPv6, whether this kernel leaves
// the bytes and the bounds of datagrams as they are where they are sent and read
// in runs, and returns the offloads that may be used. It takes some
// milliseconds.
func Probe() Offload {
	return canary{listen: Listen, read: (*Conn).ReadBatch, wait: canaryWait}.try()
}

// canary is what is sent ahead. What it asks the kernel for is in fields, so that
// a test can play a kernel that is ill.
type canary struct {
	listen func(netip.AddrPort, Offload) (*Conn, error)
	read   func(*Conn, []Message) (int, error)
	wait   time.Duration
}

func (k canary) try() Offload {
	o := Offload{GSO: true, GRO: true}
	tried := false
	for _, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		got, err := k.tryOn(ip, o)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, errLoopback) {
			continue // the family is not there, or its loopback is down
		}
		if err != nil {
			return Offload{Why: err.Error()}
		}
		if tried, o = true, got; !o.GSO {
			break
		}
	}
	if !tried {
		o.Why = "not tried: there is no loopback that is up"
	}
	return o
}

// tryOn takes away from o what does not work in one family.
func (k canary) tryOn(ip netip.Addr, o Offload) (Offload, error) {
	addr := netip.AddrPortFrom(ip, 0)
	var conns [3]*Conn
	for i, want := range []Offload{{GSO: true}, {}, {GRO: true}} {
		c, err := k.listen(addr, want)
		if err != nil {
			return Offload{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	from, single, runs := conns[0], conns[1], conns[2]
	if got := from.Offload(); !got.GSO {
		// Loopback has no runs but those that were sent as such.
		return o.without(true, true, got.Why), nil
	}
	if !k.passes(from, single) {
		return o, errLoopback
	}
	if err := k.trial(from, single); err != nil {
		return o.without(true, true, fmt.Sprintf("runs sent to %s arrive mangled: %v", ip, err)), nil
	}
	if got := runs.Offload(); !got.GRO {
		return o.without(false, true, got.Why), nil
	}
	if err := k.trial(from, runs); err != nil {
		return o.without(false, true, fmt.Sprintf("runs read on %s are mangled: %v", ip, err)), nil
	}
	return o, nil
}

// passes reports whether a single datagram arrives.
func (k canary) passes(from, to *Conn) bool {
	watchdog := time.AfterFunc(k.wait/10, func() { to.Close() })
	defer watchdog.Stop()
	sent := canaries(1, 1, 1, to.LocalAddr())
	if _, err := from.WriteBatch(sent, true); err != nil {
		return false
	}
	n, err := to.ReadBatch([]Message{{Buf: make([]byte, MaxDatagram)}})
	return n > 0 && err == nil
}

// trial sends runs of many shapes, each followed by what another run would be, and
// compares what arrives.
func (k canary) trial(from, to *Conn) error {
	watchdog := time.AfterFunc(k.wait, func() { to.Close() })
	defer watchdog.Stop()
	room := make([]Message, 2)
	for i := range room {
		room[i].Buf = make([]byte, MaxDatagram)
	}
	for _, size := range []int{1, 13, 500, 1200, 1372, 1452, 8972, 16000} {
		for _, tail := range []int{1, size / 2, size - 1, size} {
			count := min(maxSegments, maxRunBytes/size)
			if tail == 1 {
				count = 2
			}
			sent := canaries(size, tail, count, to.LocalAddr())
			if n, err := from.WriteBatch(sent, true); n != len(sent) || err != nil {
				return fmt.Errorf("%d of %d datagrams of %d bytes: %w", n, count, size, err)
			}
			if err := k.compare(to, room, sent); err != nil {
				return fmt.Errorf("%d datagrams of %d bytes, the last of %d: %w", count, size, tail, err)
			}
		}
	}
	return nil
}

// canaries makes a run, the last datagram of which has tail bytes. No piece of it
// is like another.
func canaries(size, tail, count int, to netip.AddrPort) []Message {
	memory := make([]byte, (count*size+7)/8*8)
	_, _ = rand.NewChaCha8([32]byte{}).Read(memory) // never fails
	ms := make([]Message, 0, count)
	for i := range count {
		n := size
		if i == count-1 {
			n = max(tail, 1)
		}
		ms = append(ms, Message{Buf: memory[i*size:][:n], N: n, Addr: to})
	}
	return ms
}

// compare reads as many datagrams as were sent, which must be those.
func (k canary) compare(c *Conn, room, want []Message) error {
	for len(want) > 0 {
		n, err := k.read(c, room)
		if err != nil {
			return fmt.Errorf("%d did not arrive: %w", len(want), err)
		}
		for _, m := range room[:n] {
			if want, err = same(m, want); err != nil {
				return err
			}
		}
	}
	return nil
}

// same compares a message with the datagrams that should come next, and returns
// those that should come after it.
func same(m Message, want []Message) ([]Message, error) {
	b, segment := m.Buf[:m.N], m.Segment
	if segment <= 0 {
		segment = max(m.N, 1)
	}
	for {
		if len(want) == 0 {
			return nil, errors.New("more arrive than were sent")
		}
		got := b[:min(segment, len(b))]
		if len(got) != want[0].N {
			return nil, fmt.Errorf("one arrives with %d bytes, not %d", len(got), want[0].N)
		}
		if !bytes.Equal(got, want[0].Buf[:want[0].N]) {
			return nil, errors.New("one arrives with other bytes")
		}
		want = want[1:]
		if b = b[len(got):]; len(b) == 0 {
			return want, nil
		}
	}
}
