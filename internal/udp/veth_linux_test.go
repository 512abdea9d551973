package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/lab"
)

// cable is two hosts and what runs pass between them:
//
//	Conn from ── eth0 10.8.0.1, fd08::1 ═ veth ═ eth0 10.8.0.2, fd08::2 ── Conn to
//	                                             (and 10.8.0.3, fd08::3)
type cable struct {
	near, far *lab.Namespace
}

var both = Offload{GSO: true, GRO: true}

func newCable(t *testing.T) *cable {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l, err := lab.New(fmt.Sprintf("udp-%d", os.Getpid()))
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	near, err := l.Namespace("near")
	must(t, err)
	far, err := l.Namespace("far")
	must(t, err)
	must(t, lab.Connect(near, "eth0", far, "eth0"))
	addresses := map[*lab.Namespace][]string{
		near: {"10.8.0.1/24", "fd08::1/64"},
		far:  {"10.8.0.2/24", "10.8.0.3/24", "fd08::2/64", "fd08::3/64"},
	}
	for n, prefixes := range addresses {
		for _, p := range prefixes {
			must(t, n.AddAddress("eth0", netip.MustParsePrefix(p)))
		}
	}
	return &cable{near, far}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listen opens a socket in one of the namespaces. An IPv6 address may take a moment
// until it can be used.
func (c *cable) listen(t *testing.T, n *lab.Namespace, ip string, o Offload) (conn *Conn) {
	t.Helper()
	must(t, n.Do(func() (err error) {
		for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
			conn, err = Listen(netip.AddrPortFrom(netip.MustParseAddr(ip), 0), o)
			if !errors.Is(err, unix.EADDRNOTAVAIL) || time.Now().After(deadline) {
				return err
			}
		}
	}))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// onCable runs f for both families.
func onCable(t *testing.T, f func(t *testing.T, c *cable, near, far, other string)) {
	t.Run("IPv4", func(t *testing.T) { f(t, newCable(t), "10.8.0.1", "10.8.0.2", "10.8.0.3") })
	t.Run("IPv6", func(t *testing.T) { f(t, newCable(t), "fd08::1", "fd08::2", "fd08::3") })
}

// greet sends single datagrams until one arrives: the link may be about to come up,
// and the neighbour to be found.
func greet(t *testing.T, from, to *Conn) {
	t.Helper()
	arrived := make(chan error, 1)
	go func() {
		ms := buffers(1)
		_, err := to.ReadBatch(ms)
		arrived <- err
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		_, _ = from.WriteBatch([]Message{message(0, 1, to.LocalAddr())}, true)
		select {
		case err := <-arrived:
			must(t, err)
			drainGreetings(t, from, to)
			return
		case <-tick.C:
		case <-deadline:
			to.Close()
			t.Fatal("nothing arrives")
		}
	}
}

// drainGreetings reads up to a datagram that was sent behind them.
func drainGreetings(t *testing.T, from, to *Conn) {
	t.Helper()
	if _, err := from.WriteBatch([]Message{message(1, 2, to.LocalAddr())}, true); err != nil {
		t.Fatal(err)
	}
	for readAll(t, to, 1)[0].N != 2 {
	}
}

// TestRunsOnCable: runs arrive as they were sent, whether the devices take them in
// one piece or the kernel cuts them.
func TestRunsOnCable(t *testing.T) {
	shapes := [][]int{
		{1472 - 20, 1472 - 20}, repeated(46, 1372, 990), repeated(64, 1000, 1000), repeated(200, 1452),
		repeated(3, 1, 0, 1), {5, 4, 3, 2, 1},
	}
	onCable(t, func(t *testing.T, c *cable, near, far, other string) {
		from := c.listen(t, c.near, near, both)
		to, single := c.listen(t, c.far, far, both), c.listen(t, c.far, other, Offload{})
		greet(t, from, to)
		greet(t, from, single)
		for _, on := range []bool{true, false} {
			must(t, c.near.SetFeatures("eth0", on, "tx-udp-segmentation", "tx-generic-segmentation", "tx-scatter-gather"))
			for _, sizes := range shapes {
				for _, df := range []bool{true, false} {
					for _, conn := range []*Conn{to, single} {
						sent := shape(sizes, df, conn.LocalAddr())
						if n, err := from.WriteBatch(sent, df); n != len(sent) || err != nil {
							t.Fatalf("segmentation by the device %v: WriteBatch = %d, %v", on, n, err)
						}
						wantSame(t, readAll(t, conn, len(sent)), sent)
					}
				}
			}
		}
		if from.refusals.n.Load() != 0 {
			t.Error("a run was refused")
		}
	})
}

// TestMTUShrinks: a link's MTU falls while runs are sent. With DF the first datagram
// too many is named; without, all arrive, and runs are left out that would have
// to be fragmented. Smaller ones are still runs.
func TestMTUShrinks(t *testing.T) {
	onCable(t, func(t *testing.T, c *cable, near, far, _ string) {
		from, to := c.listen(t, c.near, near, both), c.listen(t, c.far, far, both)
		greet(t, from, to)
		send := func(size int, df bool, want int, wantErr error) {
			t.Helper()
			sent := shape(repeated(10, size), true, to.LocalAddr())
			if n, err := from.WriteBatch(sent, df); n != want || err != wantErr {
				t.Fatalf("WriteBatch(%d bytes, df %v) = %d, %v; want %d, %v", size, df, n, err, want, wantErr)
			}
			wantSame(t, readAll(t, to, want), sent[:want])
		}
		refused := func(df bool, size int) bool {
			return from.refusals.has(to.LocalAddr().Addr(), df, size)
		}
		send(1400, true, 10, nil)
		must(t, c.near.SetMTU("eth0", 1300))
		send(1400, true, 0, ErrTooBig)
		if refused(true, 1400) {
			t.Error("runs with DF are left out, though their datagrams are refused as well")
		}
		send(1400, false, 10, nil)
		if !refused(false, 1400) || refused(false, 1399) || refused(true, 1400) {
			t.Errorf("refused: %v, shorter %v, with DF %v; want true, false, false", refused(false, 1400), refused(false, 1399), refused(true, 1400))
		}
		send(1400, false, 10, nil)
		send(1200, false, 10, nil)
		send(1200, true, 10, nil)

		// In the middle of a batch.
		mixed := append(shape(repeated(10, 1200), true, to.LocalAddr()), shape(repeated(10, 1400), true, to.LocalAddr())...)
		if n, err := from.WriteBatch(mixed, true); n != 10 || err != ErrTooBig {
			t.Errorf("WriteBatch = %d, %v; want 10, %v", n, err, ErrTooBig)
		}
		wantSame(t, readAll(t, to, 10), mixed[:10])
	})
}

// TestRefusedForOneDestination: to one place the kernel sends no runs, since what
// goes there has to be fragmented. That goes one by one, in order; the rest of a
// batch does not, and runs of what is shorter neither.
func TestRefusedForOneDestination(t *testing.T) {
	onCable(t, func(t *testing.T, c *cable, near, far, other string) {
		from := c.listen(t, c.near, near, both)
		to, toOther := c.listen(t, c.far, far, both), c.listen(t, c.far, other, both)
		greet(t, from, to)
		greet(t, from, toOther)
		c.narrow(t, far, 1300)
		for range 2 {
			batch := shape(repeated(10, 1400), true, toOther.LocalAddr())
			batch = append(batch, shape(repeated(10, 1400, 500), true, to.LocalAddr())...)
			batch = append(batch, shape(repeated(20, 1390), true, toOther.LocalAddr())...)
			if n, err := from.WriteBatch(batch, false); n != len(batch) || err != nil {
				t.Fatalf("WriteBatch = %d, %v", n, err)
			}
			got := readMessages(t, toOther, 30)
			wantSame(t, split(got), append(batch[:10:10], batch[21:]...))
			if len(got) != 2 {
				t.Errorf("%d messages at the other place, want 2 runs", len(got))
			}
			wantSame(t, readAll(t, to, 11), batch[10:21])
			if !from.refusals.has(to.LocalAddr().Addr(), false, 1400) {
				t.Error("runs of 1400 bytes are not left out")
			}
			if from.refusals.has(toOther.LocalAddr().Addr(), false, 1400) {
				t.Error("runs to the other place are left out")
			}
		}
		sent := shape(repeated(10, 1000), true, to.LocalAddr())
		if n, err := from.WriteBatch(sent, false); n != len(sent) || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		if got := readMessages(t, to, len(sent)); len(got) != 1 {
			t.Errorf("10 datagrams of 1000 bytes came in %d messages, want one run", len(got))
		}
	})
}

// narrow gives the route to one address an MTU of its own.
func (c *cable) narrow(t *testing.T, to string, mtu int) {
	t.Helper()
	must(t, c.near.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		ip := netip.MustParseAddr(to)
		dst := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, MTU: mtu, Scope: netlink.SCOPE_LINK})
	}))
}

// TestWhatRefusalsMean: not every errno is remembered, and not of every size.
func TestWhatRefusalsMean(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:6783")
	tests := []struct {
		errno         unix.Errno
		same, shorter bool // runs that are left out then
	}{
		{unix.EIO, true, true},
		{unix.EINVAL, true, false},
		{unix.EMSGSIZE, true, false},
		{unix.ECONNREFUSED, false, false},
		{unix.EPERM, false, false},
	}
	for _, tt := range tests {
		var c Conn
		c.refused(&Message{N: 1400, Addr: to}, true, tt.errno)
		if same, shorter := c.refusals.has(to.Addr(), true, 1400), c.refusals.has(to.Addr(), true, 1399); same != tt.same || shorter != tt.shorter {
			t.Errorf("after %v runs are left out: %v, shorter ones %v; want %v, %v", tt.errno, same, shorter, tt.same, tt.shorter)
		}
		c.rethink(to.Addr(), unix.ENETUNREACH)
		if c.refusals.has(to.Addr(), true, 1400) {
			t.Errorf("after %v and another route runs are left out", tt.errno)
		}
	}
}
