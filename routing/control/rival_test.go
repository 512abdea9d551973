package control

import (
	"testing"
	"time"
)

// Claims are believed when they go on, and not when two come long after each other: those
// may be of two former lives of the neighbour.
func TestRival(t *testing.T) {
	t0 := time.Unix(7000, 0)
	for _, tt := range []struct {
		name   string
		newer  bool
		claims []time.Duration
		sure   bool
	}{
		{"one", false, []time.Duration{0}, false},
		{"for a while", false, []time.Duration{0, formerAfter / 2, formerAfter}, true},
		{"an hour apart", false, []time.Duration{0, time.Hour}, false},
		{"newer, for a while", true, []time.Duration{0, rivalAfter}, true},
		{"newer, an hour apart", true, []time.Duration{0, time.Hour}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := &neighbour{}
			var now time.Time
			for _, d := range tt.claims {
				now = t0.Add(d)
				n.claim(Rival{UID: 7, newer: tt.newer}, now)
			}
			if r := rivalOf(n, now); (r != nil) != tt.sure {
				t.Errorf("rival %+v, want one: %v", r, tt.sure)
			}
			if rivalOf(n, now.Add(rivalGone+1)) != nil {
				t.Error("it is believed for ever")
			}
		})
	}
}
