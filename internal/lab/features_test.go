package lab

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestChangeOf(t *testing.T) {
	names := make([]string, 40)
	names[3], names[35] = "three", "thirty-five"
	on, off := changeOf(names, true, []string{"three", "thirty-five", "no such"}), changeOf(names, false, []string{"thirty-five"})
	if on.blocks != 2 || on.block[0] != struct{ valid, requested uint32 }{8, 8} || on.block[1] != struct{ valid, requested uint32 }{8, 8} {
		t.Errorf("on: %d blocks %v", on.blocks, on.block[:2])
	}
	if off.block[0].valid != 0 || off.block[1] != struct{ valid, requested uint32 }{8, 0} {
		t.Errorf("off: %v", off.block[:2])
	}
}

func TestFeatures(t *testing.T) {
	l := newLab(t)
	a, b := space(t, l, "a"), space(t, l, "b")
	must(t, Connect(a, "eth0", b, "eth0"))
	const gso, tso = "tx-generic-segmentation", "tx-tcp-segmentation"
	was, err := a.Features("eth0")
	must(t, err)
	if !was[gso] || !was[tso] {
		t.Fatalf("a veth pair has %v, want %s and %s", was, gso, tso)
	}
	must(t, a.SetFeatures("eth0", false, tso, "no-such-feature"))
	is, err := a.Features("eth0")
	must(t, err)
	if is[tso] || !is[gso] {
		t.Errorf("after %s off: %s %v, %s %v", tso, tso, is[tso], gso, is[gso])
	}
	must(t, a.SetFeatures("eth0", true, tso))
	if is, err = a.Features("eth0"); err != nil || !is[tso] {
		t.Errorf("after %s on: %v, %v", tso, is[tso], err)
	}
	if err := a.SetFeatures("eth7", false, tso); err == nil {
		t.Error("features of an interface that is not there = nil, want an error")
	}
}

// TestVXLAN joins two namespaces by the kernel's VXLAN and counts what passes.
//
//	a vx0 192.168.99.1 ── eth0 10.0.0.1 ──── eth0 10.0.0.2 ── vx0 192.168.99.2 b
func TestVXLAN(t *testing.T) {
	l := newLab(t)
	a, b := space(t, l, "a"), space(t, l, "b")
	must(t, Connect(a, "eth0", b, "eth0"))
	under := []netip.Prefix{pfx("10.0.0.1/24"), pfx("10.0.0.2/24")}
	over := []netip.Prefix{pfx("192.168.99.1/24"), pfx("192.168.99.2/24")}
	for i, n := range []*Namespace{a, b} {
		must(t, n.AddAddress("eth0", under[i]))
		must(t, n.AddVXLAN("vx0", "eth0", under[i].Addr(), under[1-i].Addr()))
		must(t, n.AddAddress("vx0", over[i]))
	}
	was, err := a.Traffic("vx0")
	must(t, err)
	_, err = a.PingOnce(within(t, 5*time.Second), over[1].Addr())
	must(t, err)
	is, err := a.Traffic("vx0")
	must(t, err)
	// More than the one echo may pass: ARP, IPv6's own.
	if d := is.Sub(was); d.OutPackets < 1 || d.InPackets < 1 || d.OutBytes < 98 {
		t.Errorf("one ping is %+v on vx0", d)
	}
	if link, err := a.Look("vx0"); err != nil || link.MTU != 1450 {
		t.Errorf("vx0 is %+v, %v; want MTU 1450", link, err)
	}
}

func TestPIDs(t *testing.T) {
	l := newLab(t)
	n := space(t, l, "a")
	if got := n.PIDs(); len(got) != 0 {
		t.Errorf("PIDs of an empty namespace = %v", got)
	}
	p, err := n.Start(helper("print:hello", ""))
	must(t, err)
	if got := n.PIDs(); !slices.Equal(got, []int{p.PID()}) {
		t.Errorf("PIDs = %v, want %d", got, p.PID())
	}
}
