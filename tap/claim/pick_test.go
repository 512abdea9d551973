package claim

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"meshd/internal/lab"
)

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		subnet string
		count  int
		never  []netip.Addr
	}{
		{"10.32.0.0/24", 254, addrs("10.32.0.0", "10.32.0.255")},
		{"10.32.0.128/30", 2, addrs("10.32.0.128", "10.32.0.131")},
		{"10.32.0.4/31", 2, nil},
		{"10.32.0.4/32", 1, nil},
		{"10.32.0.0/16", 1<<16 - 2, addrs("10.32.0.0", "10.32.255.255")},
		{"fd00::/120", 127, addrs("fd00::", "fd00::80", "fd00::ff")}, // without RFC 2526's
		{"fd00::/122", 63, addrs("fd00::")},
		{"fd00::8/127", 2, nil},
		{"fd00::8/128", 1, nil},
	} {
		t.Run(tt.subnet, func(t *testing.T) {
			subnet := netip.MustParsePrefix(tt.subnet)
			o := orderOf(subnet, []byte("host"))
			seen := map[netip.Addr]bool{}
			for batch := o.take(7, nil); len(batch) > 0; batch = o.take(7, nil) {
				for _, a := range batch {
					if seen[a] || !subnet.Contains(a) || slices.Contains(tt.never, a) {
						t.Fatalf("take() gave %s", a)
					}
					seen[a] = true
				}
			}
			if len(seen) != tt.count {
				t.Errorf("%d addresses, want %d", len(seen), tt.count)
			}
		})
	}
}

func TestOrderIsTheHosts(t *testing.T) {
	for _, subnet := range []string{"10.32.0.0/12", "10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "fd00::/8", "::/0"} {
		p := netip.MustParsePrefix(subnet)
		a, again, b := orderOf(p, []byte("a")).take(8, nil), orderOf(p, []byte("a")).take(8, nil), orderOf(p, []byte("b")).take(8, nil)
		if len(a) != 8 || !slices.Equal(a, again) || slices.Equal(a, b) {
			t.Errorf("%s: %v, %v; another host: %v", subnet, a, again, b)
		}
	}
}

func TestOrderEnds(t *testing.T) {
	asked := 0
	o := orderOf(netip.MustParsePrefix("fd00::/64"), nil)
	got := o.take(8, func(netip.Addr) bool { asked++; return true })
	if len(got) > 0 || asked > maxSkipped {
		t.Errorf("take() = %v after %d questions", got, asked)
	}
}

func TestPick(t *testing.T) {
	n := build(t)
	pick := func(h *lab.Namespace, subnet string, used func(netip.Addr) bool) (a netip.Addr, err error) {
		t.Helper()
		err = h.Do(func() (err error) {
			a, err = Pick(t.Context(), bridge, netip.MustParsePrefix(subnet), used)
			return err
		})
		return a, err
	}
	// Of six addresses three are another's, one is the host's, one used.
	free := map[netip.Addr]bool{}
	for _, a := range addrs("10.32.0.1", "10.32.0.2", "10.32.0.3", "10.32.0.4", "10.32.0.5", "10.32.0.6") {
		free[a] = true
	}
	for _, a := range []string{"10.32.0.1", "10.32.0.4", "10.32.0.6"} {
		must(t, n.c2.AddAddress("eth0", netip.MustParsePrefix(a+"/29")))
		delete(free, netip.MustParseAddr(a))
	}
	must(t, n.host1.AddAddress(bridge, netip.MustParsePrefix("10.32.0.2/29")))
	delete(free, netip.MustParseAddr("10.32.0.2"))
	used := netip.MustParseAddr("10.32.0.3")
	delete(free, used)
	want := slices.Collect(maps.Keys(free))[0]
	got, err := pick(n.host1, "10.32.0.5/29", func(a netip.Addr) bool { return a == used })
	if got != want || err != nil {
		t.Errorf("Pick() = %v, %v, want %v", got, err, want)
	}
	got, err = pick(n.host1, "10.32.0.0/29", func(a netip.Addr) bool { return a == used || a == want })
	if !errors.Is(err, ErrFull) {
		t.Errorf("Pick() in a full subnet = %v, %v, want %v", got, err, ErrFull)
	}
	got, err = pick(n.host1, "fd00::/64", nil)
	if err != nil || !netip.MustParsePrefix("fd00::/64").Contains(got) {
		t.Errorf("Pick() = %v, %v", got, err)
	}
	if got, err := pick(n.host1, "0.0.0.0/0", func(netip.Addr) bool { return true }); !errors.Is(err, ErrFull) {
		t.Errorf("Pick() = %v, %v, want %v", got, err, ErrFull)
	}
}
