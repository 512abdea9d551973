package routing

import (
	"testing"

	"meshd/internal/frame"
)

// TestHopLimit: what is passed on has one hop less, what has none left stays,
// and what never had a limit gets none.
func TestHopLimit(t *testing.T) {
	a, b, c := peerName(1), peerName(2), peerName(3)
	unicast := text(hostMAC(2), hostMAC(3), "x")
	broadcast := text(broadcastMAC, hostMAC(3), "x")
	atUs := text(hostMAC(1), hostMAC(3), "x")
	tests := []struct {
		name    string
		dst     frame.PeerName
		f       frame.Frame
		hops    uint8
		want    uint8 // of what b gets
		passed  bool
		port    bool
		dropped bool
	}{
		{name: "relay", dst: b, f: unicast, hops: 7, want: 6, passed: true},
		{name: "relay to the last", dst: b, f: unicast, hops: 2, want: 1, passed: true},
		{name: "relay too far", dst: b, f: unicast, hops: 1, dropped: true},
		{name: "relay without limit", dst: b, f: unicast, passed: true},
		{name: "flood", dst: a, f: broadcast, hops: 255, want: 254, passed: true, port: true},
		{name: "flood too far", dst: a, f: broadcast, hops: 1, port: true, dropped: true},
		{name: "flood without limit", dst: a, f: broadcast, passed: true, port: true},
		{name: "to us", dst: a, f: atUs, hops: 1, port: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.learnAll()
			p := packet(c, tt.dst, tt.f)
			p.Hops = tt.hops
			r.FromLinks([]frame.Packet{p})
			var want []frame.Packet
			if tt.passed {
				q := packet(c, b, tt.f)
				q.Hops = tt.want
				want = append(want, q)
			}
			wantPackets(t, "b", r.toB, want...)
			if tt.port {
				wantPort(t, r.port, tt.f)
			} else {
				wantPort(t, r.port)
			}
			drops := map[Drop]uint64{}
			if tt.dropped {
				drops[DropHops] = 1
			}
			wantDrops(t, r.Forwarder, drops)
		})
	}
}

// TestHopLimitEndsLoops: two hosts that each take the other for the way to a
// third pass a packet to and fro no more often than its limit says.
func TestHopLimitEndsLoops(t *testing.T) {
	const limit = 32
	a, b := newRig(t), newRig(t) // both are peer 1 and send for b over b
	p := packet(peerName(3), peerName(2), text(hostMAC(2), hostMAC(3), "round and round"))
	p.Hops = limit
	passed := 0
	for from, to := a, b; ; from, to = to, from {
		from.FromLinks([]frame.Packet{p})
		out, _ := from.toB.take()
		if len(out) == 0 {
			break
		}
		p = out[0]
		if passed++; passed > limit {
			t.Fatalf("passed on %d times", passed)
		}
	}
	if passed != limit-1 {
		t.Errorf("passed on %d times, want %d", passed, limit-1)
	}
}
