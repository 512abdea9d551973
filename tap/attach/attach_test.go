package attach

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
	"meshd/internal/lab"
)

func TestAttach(t *testing.T) {
	h := build(t)
	h.attached(h.c2, "10.32.0.2/24", "fd00::2/64")
	seen, err := h.c2.Capture(DefaultDevice, nil)
	must(t, err)
	got := h.attached(h.c1, "10.32.0.1/24", "10.40.0.1/16", "fd00::1/64")

	if got.MAC[0]&3 != 2 || got.MTU != bridgeMTU || got.Device != DefaultDevice || got.Key != h.c1.Name {
		t.Errorf("Attach() = %+v", got)
	}
	if want := prefixes("10.32.0.1/24", "10.40.0.1/16", "fd00::1/64"); !sameAddresses(got.Addresses, want) {
		t.Errorf("addresses = %v, want %v", got.Addresses, want)
	}
	if again, ok := h.inspect(h.c1); !ok || !same(again, got) {
		t.Errorf("Inspect() = %+v, %v, want %+v", again, ok, got)
	}
	wantLinks(t, h.c1, DefaultDevice, "lo")
	inside, err := h.c1.Look(DefaultDevice)
	must(t, err)
	outside, err := h.Look(got.HostDevice)
	must(t, err)
	if !inside.Up || !outside.Up || outside.Master != bridge || outside.MTU != bridgeMTU || outside.MAC[0] != 0xfe {
		t.Errorf("inside %+v, outside %+v", inside, outside)
	}
	if alias := aliasOf(t, h.Namespace, got.HostDevice); alias != "meshd attach "+h.c1.Name {
		t.Errorf("alias = %q", alias)
	}
	for _, tt := range []struct {
		family string
		want   []string
	}{
		{"-4", []string{
			"10.32.0.0/24 dev ethwe proto kernel scope link src 10.32.0.1",
			"10.40.0.0/16 dev ethwe proto kernel scope link src 10.40.0.1",
			"224.0.0.0/4 dev ethwe scope link",
		}},
		{"-6", []string{
			"fd00::/64 dev ethwe proto kernel metric 256 pref medium",
			"fe80::/64 dev ethwe proto kernel metric 256 pref medium",
		}},
	} {
		if lines := routes(t, h.c1, tt.family); !slices.Equal(lines, tt.want) {
			t.Errorf("routes %s:\n%s\nwant:\n%s", tt.family, strings.Join(lines, "\n"), strings.Join(tt.want, "\n"))
		}
	}
	for _, to := range []string{"10.32.0.2", "fd00::2"} {
		ping(t, h.c1, to)
	}
	for _, a := range []string{"10.32.0.1", "10.40.0.1", "fd00::1"} {
		is := func(b []byte) bool { return announces(b, got.MAC, netip.MustParseAddr(a)) }
		eventually(t, "an announcement of "+a, func() bool { return seen.Count(is) > 0 })
	}
}

// announces tells whether a frame is an announcement: an ARP request for the
// sender's own address, or an advertisement to all nodes that overrides.
func announces(b []byte, mac frame.MAC, addr netip.Addr) bool {
	if len(b) < 42 || frame.Src(b) != mac {
		return false
	}
	typ, _ := frame.EtherType(b)
	a := string(addr.AsSlice())
	if addr.Is4() {
		return typ == frame.EtherTypeARP && b[21] == 1 && string(b[28:32]) == a && string(b[38:42]) == a
	}
	return typ == frame.EtherTypeIPv6 && len(b) >= 78 && b[54] == 136 && b[58]&0x20 != 0 && string(b[62:78]) == a
}

func TestSettings(t *testing.T) {
	h := build(t)
	got := h.attached(h.c1, "10.32.0.1/24")
	for name, want := range map[string]string{
		"ipv4/neigh/ethwe/base_reachable_time_ms": "5000",
		"ipv4/neigh/ethwe/delay_first_probe_time": "2",
		"ipv4/neigh/ethwe/ucast_solicit":          "1",
		"ipv4/conf/ethwe/promote_secondaries":     "1",
		"ipv6/conf/ethwe/accept_ra":               "0",
	} {
		if value := setting(t, h.c1, name); value != want {
			t.Errorf("%s = %s, want %s", name, value, want)
		}
	}
	if value := setting(t, h.Namespace, "ipv6/conf/"+got.HostDevice+"/disable_ipv6"); value != "1" {
		t.Errorf("disable_ipv6 of the host side = %s", value)
	}
}

// TestOffloads: unlike Weave Net we leave them on, at both ends.
func TestOffloads(t *testing.T) {
	h := build(t)
	got := h.attached(h.c1, "10.32.0.1/24")
	for n, device := range map[*lab.Namespace]string{h.Namespace: got.HostDevice, h.c1: got.Device} {
		features, err := n.Features(device)
		must(t, err)
		for _, f := range []string{
			"tx-checksum-ip-generic", "tx-scatter-gather", "tx-generic-segmentation",
			"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation",
		} {
			if !features[f] {
				t.Errorf("%s of %s is off", f, device)
			}
		}
	}
}

// TestAttachAgain: what is as it should be stays, what is not is put right.
func TestAttachAgain(t *testing.T) {
	h := build(t)
	h.attached(h.c2, "10.32.0.2/24")
	first := h.attached(h.c1, "10.32.0.1/24", "fd00::1/64")
	for _, tt := range []struct {
		name string
		harm func() error
		add  []string // beyond what it has
		want []string
	}{
		{"nothing is wrong", nil, nil, nil},
		{"an address more", nil, []string{"10.32.0.3/24"}, []string{"10.32.0.3/24"}},
		{"another network", nil, []string{"10.50.0.1/16", "fd01::1/64"}, []string{"10.50.0.1/16", "fd01::1/64"}},
		{"the host side is down", func() error { return h.Down(first.HostDevice) }, nil, nil},
		{"it is not on the bridge", func() error { return h.Leave(first.HostDevice) }, nil, nil},
		{"the host side has another MTU", func() error { return h.SetMTU(first.HostDevice, 1300) }, nil, nil},
		{"the bridge has another MTU", func() error { return h.SetMTU(bridge, 1400) }, nil, nil},
		{"the inner end is down", func() error { return h.c1.Down(DefaultDevice) }, nil, nil},
		{"an address is missing", func() error { return h.c1.DelAddress(DefaultDevice, netip.MustParsePrefix("10.32.0.1/24")) }, nil, nil},
		{"the route is missing", func() error { return h.c1.Do(func() error { return delRoute("224.0.0.0/4") }) }, nil, nil},
		{"the alias is missing", func() error {
			return errors.Join(h.Leave(first.HostDevice), h.Do(func() error { return setAlias(first.HostDevice, "") }))
		}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.harm != nil {
				must(t, tt.harm())
			}
			seen, err := h.c2.Capture(DefaultDevice, nil)
			must(t, err)
			defer seen.Close()
			got := h.attached(h.c1, append([]string{"10.32.0.1/24", "fd00::1/64"}, tt.add...)...)
			on, err := h.Look(bridge)
			must(t, err)
			if got.MAC != first.MAC || got.HostDevice != first.HostDevice || got.MTU != on.MTU {
				t.Errorf("Attach() = %+v, was %+v", got, first)
			}
			for _, p := range prefixes(append(tt.want, "10.32.0.1/24", "fd00::1/64")...) {
				if !slices.Contains(got.Addresses, p) {
					t.Errorf("addresses = %v, want %v too", got.Addresses, p)
				}
			}
			if !slices.Contains(routes(t, h.c1, "-4"), "224.0.0.0/4 dev ethwe scope link") {
				t.Errorf("routes = %v", routes(t, h.c1, "-4"))
			}
			ping(t, h.c1, "10.32.0.2")
			is := func(b []byte) bool { return announces(b, first.MAC, netip.MustParseAddr("10.32.0.1")) }
			if quiet := tt.harm == nil && tt.add == nil; quiet && seen.Count(is) > 0 {
				t.Error("it announced what was so before")
			}
			left := h.leftovers()
			if len(left) != 2 || !slices.Contains(left, Leftover{Key: h.c1.Name, Device: first.HostDevice, Joined: true}) {
				t.Errorf("Leftovers() = %+v", left)
			}
		})
	}
}

func TestMulticastRoute(t *testing.T) {
	h := build(t)
	o := options(h.c1, "10.32.0.1/24")
	o.NoMulticastRoute = true
	_, err := h.attach(h.c1, o)
	must(t, err)
	if got := routes(t, h.c1, "-4"); len(got) != 1 {
		t.Errorf("routes = %v, want none for multicast", got)
	}
	h.attached(h.c2, "fd00::2/64")
	if got := routes(t, h.c2, "-4"); len(got) != 0 {
		t.Errorf("routes with IPv6 only = %v, want none", got)
	}
	must(t, h.c1.AddBridge("other"))
	must(t, h.c1.AddRoute(multicast, netip.Addr{}, "other"))
	h.attached(h.c1, "10.32.0.1/24")
	if got := routes(t, h.c1, "-4"); !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, "224.0.0.0/4 dev other") }) {
		t.Errorf("routes = %v, want the container's own", got)
	}
}

// TestIPv6Off: engines switch IPv6 off in containers.
func TestIPv6Off(t *testing.T) {
	h := build(t)
	must(t, h.c1.Sysctl("net.ipv6.conf.all.disable_ipv6", "1"))
	must(t, h.c1.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"))
	h.attached(h.c1, "10.32.0.1/24")
	if got := setting(t, h.c1, "ipv6/conf/ethwe/disable_ipv6"); got != "1" {
		t.Errorf("disable_ipv6 = %s, though no IPv6 address was asked for", got)
	}
	h.attached(h.c2, "fd00::2/64")
	h.attached(h.c1, "10.32.0.1/24", "fd00::1/64")
	ping(t, h.c1, "fd00::2")
}

// TestRefused: one sentence each, and nothing is left behind.
func TestRefused(t *testing.T) {
	h := build(t)
	must(t, lab.Connect(h.c2, "peer", h.c1, "eth0"))
	must(t, h.c1.AddAddress("eth0", netip.MustParsePrefix("172.17.0.5/16")))
	must(t, h.c1.AddAddress("eth0", netip.MustParsePrefix("fd17::5/64")))
	must(t, h.c1.AddAddress("lo", netip.MustParsePrefix("10.99.0.9/32")))
	for _, r := range []string{"0.0.0.0/0", "10.0.0.0/8", "10.77.5.0/24"} {
		must(t, h.c1.AddRoute(netip.MustParsePrefix(r), netip.MustParseAddr("172.17.0.1"), "eth0"))
	}
	must(t, h.c1.AddRoute(netip.MustParsePrefix("10.88.0.0/16"), netip.Addr{}, "eth0"))
	must(t, h.AddBridge("small"))
	must(t, h.SetMTU("small", 1000))
	for _, tt := range []struct {
		name   string
		change func(*Options)
		addrs  []string
		want   string
		is     error
	}{
		{"no bridge", func(o *Options) { o.Bridge = "none" }, []string{"10.32.0.1/24"}, "bridge none: there is no such bridge", ErrNoBridge},
		{"no bridge, another device", func(o *Options) { o.Bridge = "lo" }, []string{"10.32.0.1/24"}, "not a bridge", nil},
		{"small MTU", func(o *Options) { o.Bridge = "small" }, []string{"10.32.0.1/24", "fd00::1/64"}, "MTU of 1000, IPv6 needs at least 1280", ErrNoIPv6},
		{"no address", nil, nil, "no address to attach", nil},
		{"network address", nil, []string{"10.32.0.0/24"}, "did you mean 10.32.0.1/24?", nil},
		{"two subnets", nil, []string{"10.32.0.1/24", "10.32.0.1/16"}, "10.32.0.1 is there twice", nil},
		{"no subnet", func(o *Options) { o.Addresses = []netip.Prefix{{}} }, nil, "there is no address", nil},
		{"no key", func(o *Options) { o.Key = "" }, []string{"10.32.0.1/24"}, "needs a key", nil},
		{"long key", func(o *Options) { o.Key = strings.Repeat("x", 300) }, []string{"10.32.0.1/24"}, "300 bytes", nil},
		{"hostile key", func(o *Options) { o.Key = "a\nb" }, []string{"10.32.0.1/24"}, "to be text", nil},
		{"hostile device", func(o *Options) { o.Device = "../x" }, []string{"10.32.0.1/24"}, "not a name", nil},
		{"address of lo", nil, []string{"10.99.0.9/24"}, "10.99.0.9 is an address of the container already, on its device lo: choose another", nil},
		{"eth0's network", nil, []string{"10.32.0.1/24", "172.17.9.5/24"}, "172.17.9.5/24 overlaps with the network 172.17.0.0/16 of the container, on its device eth0: choose a subnet that it does not use", nil},
		{"eth0's route", nil, []string{"10.88.9.1/24"}, "10.88.9.1/24 overlaps with the route of the container to 10.88.0.0/16, by its device eth0", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(h.c1, tt.addrs...)
			if tt.change != nil {
				tt.change(&o)
			}
			_, err := h.attach(h.c1, o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("Attach() = %v, want %q in it (%v)", err, tt.want, tt.is)
			}
			wantLinks(t, h.Namespace, "lo", "small", bridge)
			wantLinks(t, h.c1, "eth0", "lo")
		})
	}
	// Beside a wider route by a gateway, and an address of lo, it works.
	h.attached(h.c1, "10.32.0.1/24", "10.99.0.1/24")
}

// TestForeign: a device of the same name that is not ours.
func TestForeign(t *testing.T) {
	h := build(t)
	must(t, lab.Connect(h.Namespace, "theirs", h.c1, DefaultDevice))
	_, err := h.attach(h.c1, options(h.c1, "10.32.0.1/24"))
	if !errors.Is(err, ErrForeign) {
		t.Errorf("Attach() = %v, want %v", err, ErrForeign)
	}
	if i, ok := h.inspect(h.c1); ok {
		t.Errorf("Inspect() = %+v, want none", i)
	}
	if left, err := h.detach(h.c1); left != nil || err != nil {
		t.Errorf("Detach() = %v, %v", left, err)
	}
	wantLinks(t, h.Namespace, "lo", "theirs", bridge)
	wantLinks(t, h.c1, DefaultDevice, "lo")
	if got := routes(t, h.c1, "-4"); len(got) > 0 {
		t.Errorf("routes = %v, want none", got)
	}

	// The host side's name is taken.
	must(t, lab.Connect(h.Namespace, hostName(h.c2.Name), h.c1, "other"))
	must(t, h.Join(hostName(h.c2.Name), bridge))
	_, err = h.attach(h.c2, options(h.c2, "10.32.0.2/24"))
	if err == nil || !strings.Contains(err.Error(), "is in the way") {
		t.Errorf("Attach() = %v", err)
	}
	wantLinks(t, h.c2, "lo")
	if err := h.remove(h.c2.Name); err == nil {
		t.Error("Remove removed what is another's")
	}
}

// TestSharedNetwork: two containers with one network are one attachment.
func TestSharedNetwork(t *testing.T) {
	h := build(t)
	h.attached(h.c1, "10.32.0.1/24")
	o := options(h.c1, "10.32.0.3/24")
	o.Key = "its sidecar"
	_, err := h.attach(h.c1, o)
	if err == nil || !strings.Contains(err.Error(), h.c1.Name) || !strings.Contains(err.Error(), "shares its network") {
		t.Errorf("Attach() = %v", err)
	}
	o = options(h.c1, "10.32.0.3/24")
	o.Device = "ethwe1"
	_, err = h.attach(h.c1, o)
	if err == nil || !strings.Contains(err.Error(), "attached with the device ethwe") {
		t.Errorf("Attach() with another device = %v", err)
	}
	if got, ok := h.inspect(h.c1); !ok || !slices.Equal(got.Addresses, prefixes("10.32.0.1/24")) {
		t.Errorf("Inspect() = %+v, %v", got, ok)
	}
}

// TestEnded: the container ends while it is attached.
func TestEnded(t *testing.T) {
	h := build(t)
	p := sleeper(t, h.c1)
	var ns *Namespace
	must(t, h.Do(func() (err error) {
		ns, err = OpenPID("", p.PID())
		return err
	}))
	defer ns.Close()
	if want := h.open(h.c1).net.ID(); ns.net.ID() != want {
		t.Errorf("identity = %v, want %v", ns.net.ID(), want)
	}
	attach := func(addrs ...string) error {
		return h.Do(func() error {
			_, err := Attach(ns, options(h.c1, addrs...))
			return err
		})
	}
	must(t, attach("10.32.0.1/24"))
	must(t, p.Kill())
	err := attach("10.32.0.1/24", "10.32.0.2/24", "fd00::1/64")
	if !errors.Is(err, ErrEnded) || err.Error() != "the container ended while it was being attached" {
		t.Errorf("Attach() = %v, want %v", err, ErrEnded)
	}
	if got, ok := h.inspect(h.c1); !ok || !slices.Equal(got.Addresses, prefixes("10.32.0.1/24")) {
		t.Errorf("Inspect() = %+v, %v, want what was there before", got, ok)
	}
	must(t, h.remove(h.c1.Name))
	if err := attach("10.32.0.1/24", "fd00::1/64"); !errors.Is(err, ErrEnded) {
		t.Errorf("Attach() = %v, want %v", err, ErrEnded)
	}
	wantLinks(t, h.Namespace, "lo", bridge)
	wantLinks(t, h.c1, "lo")
	err = h.Do(func() error {
		_, err := OpenPID("", p.PID())
		return err
	})
	if !errors.Is(err, ErrEnded) {
		t.Errorf("OpenPID() = %v, want %v", err, ErrEnded)
	}
}

// TestRestarted: the container has another namespace now, while something holds
// the old one.
func TestRestarted(t *testing.T) {
	h := build(t)
	old := h.attached(h.c1, "10.32.0.1/24")
	o := options(h.c1, "10.32.0.1/24")
	got, err := h.attach(h.c2, o)
	must(t, err)
	if got.HostDevice != old.HostDevice || got.MAC == old.MAC {
		t.Errorf("Attach() = %+v, was %+v", got, old)
	}
	wantLinks(t, h.c1, "lo")
	wantLinks(t, h.c2, DefaultDevice, "lo")
	wantLinks(t, h.Namespace, "lo", old.HostDevice, bridge)
}

// TestUndoOfManySteps: a step in the middle does not work.
func TestUndoOfManySteps(t *testing.T) {
	h := build(t)
	h.attached(h.c1, "10.32.0.1/24")
	ns := h.open(h.c1)
	before := routes(t, h.c1, "-4")
	unmount(t, h.c1)
	err := h.Do(func() error {
		_, err := Attach(ns, options(h.c1, "10.32.0.2/24", "10.60.0.1/24", "fd00::1/64"))
		return err
	})
	if !errors.Is(err, ErrEnded) {
		t.Errorf("Attach() = %v, want %v", err, ErrEnded)
	}
	must(t, ns.do(func() error { return unix.Mount("/proc/thread-self/ns/net", h.c1.Path(), "", unix.MS_BIND, "") }))
	if after := routes(t, h.c1, "-4"); !slices.Equal(after, before) {
		t.Errorf("routes = %v, were %v", after, before)
	}
	if got, ok := h.inspect(h.c1); !ok || !slices.Equal(got.Addresses, prefixes("10.32.0.1/24")) {
		t.Errorf("Inspect() = %+v, %v", got, ok)
	}
}

// same tells whether two interfaces are the same, whatever the order of addresses.
func same(a, b Interface) bool {
	ok := sameAddresses(a.Addresses, b.Addresses)
	return ok && a.Key == b.Key && a.Device == b.Device && a.MAC == b.MAC && a.MTU == b.MTU && a.HostDevice == b.HostDevice
}

func sameAddresses(a, b []netip.Prefix) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Prefix.Compare)
	slices.SortFunc(b, netip.Prefix.Compare)
	return slices.Equal(a, b)
}
