package punch

import (
	"testing"
	"time"
)

func TestKeyAge(t *testing.T) {
	t0 := time.Unix(1000, 0)
	r := rekeying{after: time.Minute, used: 100}
	for _, tt := range []struct {
		name string
		sent time.Duration // of the probe that was replied to, after the key began; 0: none
		age  time.Duration
		used uint64
		want bool
	}{
		{"young and little used", time.Second, 59 * time.Second, 99, false},
		{"old", time.Second, time.Minute, 1, true},
		{"old but never used", time.Second, time.Hour, 0, false},
		{"much used", time.Second, time.Second, 100, true},
		{"the neighbour may not have it yet", 0, time.Hour, 1000, false},
		{"the reply was to a probe of before", -time.Second, time.Hour, 1000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var k keyAge
			k.begin(t0)
			if tt.sent != 0 {
				k.replied(t0.Add(tt.sent))
			}
			if got := k.due(t0.Add(tt.age), tt.used, r); got != tt.want {
				t.Errorf("due = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRunTrust(t *testing.T) {
	t0 := time.Unix(1000, 0)
	for _, tt := range []struct {
		name    string
		replies [][2]uint64 // bad, sent
		want    bool
	}{
		{"all well", [][2]uint64{{0, 0}, {0, 1000}, {0, 9000}}, false},
		{"before we sent anything", [][2]uint64{{1000, 10}}, false},
		{"a few", [][2]uint64{{0, 0}, {badAtLeast - 1, 20}}, false},
		{"a small share", [][2]uint64{{0, 0}, {99, 99*badShare + 1}}, false},
		{"many", [][2]uint64{{0, 0}, {0, 100}, {100, 1100}}, true},
		{"round the corner", [][2]uint64{{1<<32 - 10, 0}, {90, 1000}}, true},
		{"an older reply", [][2]uint64{{100, 0}, {50, 1000}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r runTrust
			for i, x := range tt.replies {
				r.reply(t0.Add(time.Duration(i)*time.Second), uint32(x[0]), x[1])
			}
			if got := r.without(t0.Add(time.Duration(len(tt.replies)) * time.Second)); got != tt.want {
				t.Errorf("without runs = %v, want %v", got, tt.want)
			}
		})
	}
	var r runTrust
	now, bad, sent := t0, uint32(0), uint64(0)
	r.reply(now, bad, sent)
	for _, want := range []time.Duration{distrust, 2 * distrust, 4 * distrust, 8 * distrust, distrustTo, distrustTo} {
		bad, sent = bad+100, sent+200
		if !r.reply(now, bad, sent) || !r.without(now.Add(want-1)) || r.without(now.Add(want)) {
			t.Fatalf("runs are not left out for %v", want)
		}
		bad, sent = bad+100, sent+200
		if r.reply(now.Add(want/2), bad, sent) {
			t.Error("bad datagrams without runs count")
		}
		now = now.Add(want)
	}
	r.expire(now.Add(distrustTo + time.Second))
	if r.reply(now.Add(distrustTo+time.Second), bad+100, sent+200); !r.without(now.Add(distrustTo+time.Second)) || r.without(now.Add(distrustTo+2*time.Second+distrust)) {
		t.Error("what was long ago is not forgiven")
	}
}
