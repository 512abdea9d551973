package claim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/internal/lab"
)

const bridge = "weave"

// hosts are two hosts with a bridge each, a cable between them in the place of the
// overlay, and a container on each bridge.
//
//	c1 eth0 ── host1 weave ── mesh ── mesh ── weave host2 ── eth0 c2
type hosts struct {
	host1, host2, c1, c2 *lab.Namespace
}

func build(t *testing.T) hosts {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	l, err := lab.New(fmt.Sprintf("meshd-claim-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		must(t, l.Close())
		if left := l.Leftovers(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	n := hosts{add(t, l, "host1"), add(t, l, "host2"), add(t, l, "c1"), add(t, l, "c2")}
	for _, h := range []*lab.Namespace{n.host1, n.host2} {
		must(t, h.AddBridge(bridge))
		must(t, h.Sysctl("net.ipv6.conf."+bridge+".disable_ipv6", "1")) // it works without
	}
	must(t, lab.Connect(n.host1, "mesh", n.host2, "mesh"))
	must(t, lab.Connect(n.host1, "veth", n.c1, "eth0"))
	must(t, lab.Connect(n.host2, "veth", n.c2, "eth0"))
	for _, h := range []*lab.Namespace{n.host1, n.host2} {
		must(t, errors.Join(h.Join("mesh", bridge), h.Join("veth", bridge)))
	}
	return n
}

func add(t *testing.T, l *lab.Lab, name string) *lab.Namespace {
	t.Helper()
	n, err := l.Namespace(name)
	must(t, err)
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func macOf(t *testing.T, n *lab.Namespace, device string) frame.MAC {
	t.Helper()
	l, err := n.Look(device)
	must(t, err)
	return frame.MAC(l.MAC)
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// probe is Probe in a namespace, and how long it took.
func probe(t *testing.T, n *lab.Namespace, list []netip.Addr, ignore func(frame.MAC) bool) (holders []Holder, took time.Duration) {
	t.Helper()
	must(t, n.Do(func() (err error) {
		start := time.Now()
		holders, err = Probe(t.Context(), bridge, list, ignore)
		took = time.Since(start)
		return err
	}))
	return holders, took
}

func TestProbe(t *testing.T) {
	n := build(t)
	must(t, n.c1.AddAddress("eth0", netip.MustParsePrefix("10.32.0.1/24")))
	must(t, n.c2.AddAddress("eth0", netip.MustParsePrefix("10.32.0.2/24")))
	must(t, n.c2.AddAddress("eth0", netip.MustParsePrefix("fd00::2/64")))
	must(t, n.host1.AddAddress(bridge, netip.MustParsePrefix("10.32.0.9/24")))
	near, far := macOf(t, n.c1, "eth0"), macOf(t, n.c2, "eth0")
	own := Holder{Addr: addrs("10.32.0.9")[0], MAC: macOf(t, n.host1, bridge), Device: bridge}
	held := []Holder{
		{Addr: addrs("10.32.0.1")[0], MAC: near},
		{Addr: addrs("10.32.0.2")[0], MAC: far},
		{Addr: addrs("fd00::2")[0], MAC: far},
		own,
	}
	for _, tt := range []struct {
		name   string
		addrs  []netip.Addr
		ignore func(frame.MAC) bool
		want   []Holder
		slow   bool // it has to wait for answers that do not come
	}{
		{"held", addrs("10.32.0.1", "10.32.0.2", "fd00::2", "10.32.0.9"), nil, held, false},
		{"one twice", addrs("10.32.0.1", "10.32.0.1"), nil, held[:1], false},
		{"our own", addrs("10.32.0.9"), nil, held[3:], false},
		{"free and held", addrs("10.32.0.3", "fd00::3", "10.32.0.2"), nil, held[1:2], true},
		{"of an ignored MAC", addrs("10.32.0.1"), func(m frame.MAC) bool { return m == near }, nil, true},
		{"none", nil, nil, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, took := probe(t, n.host1, tt.addrs, tt.ignore)
			if !slices.Equal(got, tt.want) {
				t.Errorf("Probe() = %+v, want %+v", got, tt.want)
			}
			if whole := (probes-1)*probeGap + probeWait; (took >= whole) != tt.slow {
				t.Errorf("it took %v of %v, want all of it: %v", took, whole, tt.slow)
			}
		})
	}
}

// TestProbeOfOtherNetworks: what comes with a VLAN tag does not count.
func TestProbeOfOtherNetworks(t *testing.T) {
	n := build(t)
	a := addrs("10.32.0.7")[0]
	answer := announcementOf(a, macA)
	tagged := slices.Concat(answer[:12], []byte{0x81, 0, 0, 5}, answer[12:])
	priority := slices.Concat(answer[:12], []byte{0x81, 0, 0xe0, 0}, answer[12:])
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			n.c1.SendFrame("eth0", tagged)
			n.c1.SendFrame("eth0", priority)
			time.Sleep(20 * time.Millisecond)
		}
	})
	got, _ := probe(t, n.host1, []netip.Addr{a}, nil)
	cancel()
	wg.Wait()
	if len(got) > 0 {
		t.Errorf("Probe() = %+v, want nobody", got)
	}
}

// TestRace: of two hosts that ask for an address at the same moment, or while the
// other one is at it, at most one gets it.
func TestRace(t *testing.T) {
	n := build(t)
	for i, later := range []time.Duration{0, 50 * time.Millisecond, probeGap, 400 * time.Millisecond, 2 * probeGap, 800 * time.Millisecond} {
		t.Run(later.String(), func(t *testing.T) {
			t.Parallel()
			a := netip.AddrFrom4([4]byte{10, 32, 0, byte(i + 1)})
			b := netip.AddrFrom16([16]byte{0xfd, 15: byte(i + 1)})
			hosts := []*lab.Namespace{n.host1, n.host2}
			var got [2][]Holder
			var wg sync.WaitGroup
			for i, h := range hosts {
				wg.Go(func() {
					time.Sleep(later * time.Duration(i))
					got[i], _ = probe(t, h, []netip.Addr{a, b}, nil)
				})
			}
			wg.Wait()
			for _, addr := range []netip.Addr{a, b} {
				losers := 0
				for i := range hosts {
					want := Holder{Addr: addr, MAC: macOf(t, hosts[1-i], bridge), Probing: true}
					if slices.Contains(got[i], want) {
						losers++
					}
				}
				if losers == 0 {
					t.Errorf("both hosts got %s: %+v", addr, got)
				}
			}
		})
	}
}

// TestSee: one that has an address counts more than one that asks for it.
func TestSee(t *testing.T) {
	macB := frame.MAC{2, 0xb}
	s := newSearch([]netip.Addr{v4}, frame.MAC{}, nil)
	for _, tt := range []struct{ seen, want Holder }{
		{Holder{Addr: v6, MAC: macA}, Holder{}},
		{Holder{Addr: v4, MAC: macA, Probing: true}, Holder{Addr: v4, MAC: macA, Probing: true}},
		{Holder{Addr: v4, MAC: macB, Probing: true}, Holder{Addr: v4, MAC: macA, Probing: true}},
		{Holder{Addr: v4, MAC: macB}, Holder{Addr: v4, MAC: macB}},
		{Holder{Addr: v4, MAC: macA}, Holder{Addr: v4, MAC: macB}},
	} {
		if s.see(tt.seen); s.found[v4] != tt.want {
			t.Errorf("after %+v: %+v, want %+v", tt.seen, s.found[v4], tt.want)
		}
	}
}

func TestProbeErrors(t *testing.T) {
	n := build(t)
	must(t, n.host1.AddBridge("down"))
	must(t, n.host1.Down("down"))
	for _, tt := range []struct {
		device string
		addr   string
		want   string
	}{
		{"nowhere", "10.32.0.1", "nowhere: " + ErrNoDevice.Error()},
		{"down", "10.32.0.1", "down: " + ErrDown.Error()},
		{bridge, "224.0.0.1", "the address of a group"},
		{bridge, "0.0.0.0", "cannot be the address"},
		{bridge, "255.255.255.255", "cannot be the address"},
		{bridge, "ff02::1", "the address of a group"},
		{bridge, "127.0.0.1", "cannot be the address"},
		{bridge, "::ffff:10.32.0.1", "write 10.32.0.1"},
	} {
		err := n.host1.Do(func() error {
			_, err := Probe(t.Context(), tt.device, addrs(tt.addr), nil)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Probe(%s, %s) = %v, want %q in it", tt.device, tt.addr, err, tt.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := n.host1.Do(func() error {
		_, err := Probe(ctx, bridge, addrs("10.32.0.1"), nil)
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Probe() = %v, want %v", err, context.DeadlineExceeded)
	}
}

// TestDeviceGoes: the bridge is removed, or set down, while it is asked on.
func TestDeviceGoes(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(n *lab.Namespace) error
	}{
		{"down", func(n *lab.Namespace) error { return n.Down(bridge) }},
		{"removed", func(n *lab.Namespace) error { return n.Delete(bridge) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := build(t)
			harmed := make(chan error, 1)
			time.AfterFunc(100*time.Millisecond, func() { harmed <- tt.harm(n.host1) })
			err := n.host1.Do(func() error {
				_, err := Probe(t.Context(), bridge, addrs("10.32.0.1"), nil)
				return err
			})
			must(t, <-harmed)
			if !errors.Is(err, ErrDown) && !errors.Is(err, ErrNoDevice) {
				t.Errorf("Probe() = %v, want %v", err, ErrDown)
			}
		})
	}
}

// TestAnnounce: the announcement reaches containers of both hosts, and corrects
// what they knew.
func TestAnnounce(t *testing.T) {
	n := build(t)
	list := addrs("10.32.0.7", "fd00::7")
	mac := macOf(t, n.host1, bridge)
	seen := map[*lab.Namespace]*lab.Capture{}
	for _, c := range []*lab.Namespace{n.c1, n.c2} {
		capture, err := c.Capture("eth0", func(b []byte) bool { _, ok := parse(b); return ok })
		must(t, err)
		seen[c] = capture
	}
	must(t, n.host1.Do(func() error { return Announce(bridge, list) }))
	for _, a := range list {
		want := sign{addr: a, mac: mac}
		is := func(b []byte) bool { s, _ := parse(b); return s == want }
		for c, capture := range seen {
			for end := time.Now().Add(5 * time.Second); capture.Count(is) < announcements; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s saw %d announcements of %s, want %d", c.Name, capture.Count(is), a, announcements)
				}
			}
		}
	}
	err := n.host1.Do(func() error { return Announce("nowhere", list) })
	if !errors.Is(err, ErrNoDevice) {
		t.Errorf("Announce() = %v, want %v", err, ErrNoDevice)
	}
}
