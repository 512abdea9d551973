package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"meshd/internal/lab"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
}

// TestSession runs one round over the kernel's own ways, with the tools that need
// no other program.
func TestSession(t *testing.T) {
	needRoot(t)
	chosen, err := choose(variants(), "vxlan")
	if err != nil {
		t.Fatal(err)
	}
	s := settings{Time: time.Second, Rounds: 1, Measures: []string{mRR, mUDPRR, mPPS, mMemory}}
	var out bytes.Buffer
	b := newBench(t.Context(), &kit{}, chosen, s, &out)
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, v := range chosen {
		for _, q := range []query{of(v.name, mRR, vP50), of(v.name, mRR, vP99), of(v.name, mUDPRR, vP50), of(v.name, mPPS, vPPS)} {
			if v, ok := b.results.median(q); !ok || !(v > 0) {
				t.Errorf("%s: %s of %s = %v, %v\n%s", q.variant, q.value, q.measure, v, ok, &out)
			}
		}
		if _, ok := b.results.median(of(v.name, mMemory, vRSS)); ok {
			t.Errorf("%s has the memory of a daemon, and there is none", v.name)
		}
	}
	if left := leftovers(t); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

func leftovers(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), fmt.Sprintf("%s%d", labPrefix, os.Getpid())) {
			left = append(left, e.Name())
		}
	}
	return strings.Join(left, " ")
}

// TestSessionEnds: a run that is called off ends at once and leaves nothing.
func TestSessionEnds(t *testing.T) {
	needRoot(t)
	chosen, err := choose(variants(), "veth")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	started := variant{
		name: "veth", title: "veth", kind: kernel, find: chosen[0].find,
		up: func(ctx context.Context, k *kit, b *bed) error {
			defer cancel()
			return chosen[0].up(ctx, k, b)
		},
	}
	b := newBench(t.Context(), &kit{}, []variant{started}, settings{Time: time.Hour, Rounds: 100, Measures: allMeasures}, &bytes.Buffer{})
	if err := b.run(ctx); err != context.Canceled {
		t.Errorf("run = %v, want %v", err, context.Canceled)
	}
	if len(b.results.Samples) != 0 {
		t.Errorf("samples of a run that was called off: %+v", b.results.Samples)
	}
	if left := leftovers(t); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// TestUnderlays: what setUnderlay says is what the interfaces do then.
func TestUnderlays(t *testing.T) {
	needRoot(t)
	b, err := newBed(fmt.Sprintf("%s%d", labPrefix, os.Getpid()), 2, normal)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for _, tt := range []struct {
		to       string
		gso, gro bool
	}{{onWire, false, true}, {onWireNoGRO, false, false}, {onVeth, true, false}} {
		if err := b.setUnderlay(tt.to); err != nil {
			t.Fatal(err)
		}
		for _, h := range b.hosts {
			f, err := h.Features(underlay)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"tx-generic-segmentation", "tx-tcp-segmentation", "tx-udp-segmentation"} {
				if f[name] != tt.gso {
					t.Errorf("%s: %s is %v", tt.to, name, f[name])
				}
			}
			if f[receiveOffload] != tt.gro {
				t.Errorf("%s: %s is %v", tt.to, receiveOffload, f[receiveOffload])
			}
		}
	}
}

// TestRouted: boxes that overlays for IP packets join have a gateway.
func TestRouted(t *testing.T) {
	needRoot(t)
	b, err := newBed(fmt.Sprintf("%s%d", labPrefix, os.Getpid()), 2, normal)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	err = b.each(func(i int) error {
		if err := b.route(i, 1400); err != nil {
			return err
		}
		return b.hosts[i].AddRoute(subnet(1-i), hostAddr(1-i), underlay) // in the overlay's place
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ready(t.Context()); err != nil {
		t.Error(err)
	}
	if link, err := b.boxes[0].Look(lab.ContainerLink); err != nil || link.MTU != 1400 {
		t.Errorf("the box has %+v, %v, want MTU 1400", link, err)
	}
	if u, err := b.usage(); err != nil || u.rss != 0 || u.machine <= 0 {
		t.Errorf("usage = %+v, %v, want no daemons", u, err)
	}
}
