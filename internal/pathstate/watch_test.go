package pathstate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watched is a path without sockets: its neighbour answers each probe at once, unless
// it is cut off. It belongs in a bubble.
type watched struct {
	*Watch
	mu    sync.Mutex
	cut   bool        // nothing gets through; guarded by mu
	extra time.Time   // when the path itself has something to do; guarded by mu
	looks []time.Time // guarded by mu
	done  chan struct{}
	ended chan error
	stop  context.CancelFunc
}

func newWatched(t *testing.T, c WatchConfig) *watched {
	t.Helper()
	p := &watched{done: make(chan struct{}), ended: make(chan error, 1)}
	p.Watch = NewWatch(&p.mu, c)
	ctx, stop := context.WithCancel(t.Context())
	p.stop = stop
	go func() { p.ended <- p.Watch.Run(ctx, p.done, p.look) }()
	return p
}

// look is a step of the path.
func (p *watched) look(now time.Time) (time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks = append(p.looks, now)
	p.JudgeLocked(now, !p.HeardAt().IsZero())
	if !p.extra.After(now) {
		p.extra = time.Time{}
	}
	var probe time.Time
	if p.native {
		p.probeLocked(now)
		probe = p.Prober.Due(now, &p.Life)
	}
	return p.SleepLocked(now, p.extra, probe), p.FailedLocked()
}

func (p *watched) probeLocked(now time.Time) {
	if now.Before(p.Prober.Due(now, &p.Life)) {
		return
	}
	if sequence := p.Prober.Send(now, &p.Life); !p.cut {
		p.Alive(now)
		p.RepliedLocked(now, sequence)
	}
}

// up reports whether the path is.
func (p *watched) up() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Life.Up
}

// setCut cuts the neighbour off, or not any more.
func (p *watched) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
}

// count is how often the path looks within d.
func (p *watched) count(d time.Duration) int {
	p.mu.Lock()
	p.looks = nil
	p.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.looks)
}

// wait lets time pass.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestWatchFollowsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWatched(t, WatchConfig{Native: true})
		if wait(time.Second); !p.up() {
			t.Fatal("not up though the neighbour answers")
		}
		p.setCut(true)
		if wait(deadAfter - probeEvery); !p.up() {
			t.Error("down too soon")
		}
		if wait(probeEvery + probeAnxious); p.up() {
			t.Error("not down in time")
		}
		p.setCut(false)
		if wait(probeEvery); !p.up() {
			t.Error("not up again")
		}
		p.stop()
		if err := <-p.ended; err != nil {
			t.Errorf("Run = %v after its context was done, want nil", err)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	const second = time.Second
	for _, tt := range []struct {
		name   string
		config WatchConfig
		event  func(p *watched)
		want   error
		after  time.Duration // within 200 ms
	}{
		{"evicted", WatchConfig{Native: true}, func(p *watched) { p.Evict(); p.Evict() }, ErrReplaced, 0},
		{"control lost, works", WatchConfig{Native: true}, func(p *watched) { close(p.done) }, nil, 10 * second},
		{"control lost, dead", WatchConfig{Native: true}, func(p *watched) { p.setCut(true); close(p.done) }, ErrControlLost, second},
		{"control lost, stock", WatchConfig{}, func(p *watched) { close(p.done) }, ErrControlLost, 0},
		{"silent, stock", WatchConfig{}, func(p *watched) {}, ErrSilent, stockSilence},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newWatched(t, tt.config)
				wait(second + probeEvery/2) // between two probes
				p.Alive(time.Now())
				p.Rouse()
				wait(0)
				if !p.up() {
					t.Fatal("not up")
				}
				start := time.Now()
				tt.event(p)
				var err error
				select {
				case err = <-p.ended:
				case <-time.After(10 * time.Minute):
					p.stop()
					<-p.ended
				}
				if !errors.Is(err, tt.want) {
					t.Errorf("Run = %v, want %v", err, tt.want)
				}
				if took := time.Since(start); tt.want != nil && (took < tt.after || took > tt.after+200*time.Millisecond) {
					t.Errorf("Run ended after %v, want %v", took, tt.after)
				}
			})
		})
	}
}

// A failure that look finds ends Run.
func TestWatchLookFails(t *testing.T) {
	var mu sync.Mutex
	want := errors.New("no more")
	err := NewWatch(&mu, WatchConfig{}).Run(t.Context(), nil, func(time.Time) (time.Time, error) { return time.Time{}, want })
	if err != want {
		t.Errorf("Run = %v, want %v", err, want)
	}
}

// A look that comes late is no silence of the neighbour's, and puts the MTU's tests off.
func TestWatchStall(t *testing.T) {
	var mu sync.Mutex
	w := NewWatch(&mu, WatchConfig{Native: true, PMTU: NewPMTU(PMTUConfig{})})
	now := time.Now()
	w.Alive(now)
	w.Life.Reach(now)
	w.PMTU.SetRoute(now, 1500)
	if !w.JudgeLocked(now, true) || w.JudgeLocked(now, true) {
		t.Error("that the path came up is not told once")
	}
	due := w.SleepLocked(now)
	if !due.Equal(now.Add(quietAfter)) {
		t.Errorf("due in %v, want %v", due.Sub(now), quietAfter)
	}
	lower := w.PMTU.lowerAt
	const stall = time.Minute
	w.JudgeLocked(due.Add(stall), true)
	if !w.Life.Up {
		t.Error("down by a stall of our own")
	}
	if got := w.PMTU.lowerAt.Sub(lower); got != stall {
		t.Errorf("the MTU is given up %v later, want %v", got, stall)
	}
}

func TestWatchSleep(t *testing.T) {
	var mu sync.Mutex
	w := NewWatch(&mu, WatchConfig{Native: true})
	now := time.Now()
	w.JudgeLocked(now, false)
	life := w.Life.Due(now, w.HeardAt())
	soon := now.Add(time.Millisecond)
	for _, tt := range []struct {
		name  string
		times []time.Time
		want  time.Time
	}{
		{"nothing to do", nil, life},
		{"zeros", []time.Time{{}, {}}, life},
		{"later than life", []time.Time{life.Add(1)}, life},
		{"the earliest", []time.Time{life, soon, {}, soon.Add(1)}, soon},
		{"put off", []time.Time{now.Add(-time.Hour)}, now},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := w.SleepLocked(now, tt.times...); !got.Equal(tt.want) {
				t.Errorf("SleepLocked = %v, want %v", got.Sub(now), tt.want.Sub(now))
			}
		})
	}
}

// Run looks when the path's own time has come, and at what happens to a path that rests.
func TestWatchWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWatched(t, WatchConfig{Native: true, Rests: true})
		wait(idleAfter + 2*time.Second)
		p.mu.Lock()
		resting := p.Life.Resting()
		p.mu.Unlock()
		if !resting {
			t.Fatal("the path does not rest")
		}
		for _, tt := range []struct {
			name string
			f    func()
		}{
			{"Busy", p.Busy},
			{"Hurry", p.Hurry},
			{"Revive", p.Revive},
			{"Rouse", p.Rouse},
			{"Asked after a while", func() {
				p.mu.Lock()
				at := p.Prober.last.Add(p.Life.every * 3 / 4) // ours is due by then, if asked
				p.mu.Unlock()
				wait(time.Until(at))
				p.Asked(time.Now(), 1, NeverHeard)
			}},
		} {
			for p.count(100*time.Millisecond) > 0 { // something was due by itself
			}
			if tt.f(); p.count(50*time.Millisecond) == 0 {
				t.Errorf("%s: Run does not look", tt.name)
			}
			wait(idleAfter + 2*time.Second)
		}
		p.mu.Lock()
		p.extra = time.Now().Add(time.Millisecond)
		p.mu.Unlock()
		p.Rouse()
		if p.count(10*time.Millisecond) < 2 {
			t.Error("Run does not look when the path's own time has come")
		}
		p.stop()
		<-p.ended
	})
}

func TestWatchAsked(t *testing.T) {
	var mu sync.Mutex
	w := NewWatch(&mu, WatchConfig{Native: true})
	now := time.Now()
	roused := func() bool {
		select {
		case <-w.wake:
			return true
		default:
			return false
		}
	}
	if w.Asked(now, 1, NeverHeard); !w.Life.Reached().IsZero() || roused() {
		t.Error("taken for heard by a neighbour that says it never heard us")
	}
	w.Asked(now, 2, 300)
	if got, want := w.Life.Reached(), now.Add(-300*time.Millisecond); !got.Equal(want) {
		t.Errorf("reached at %v, want %v", got, want)
	}
	if !roused() {
		t.Error("Run does not look though the path may be up")
	}
	w.Life.Up = true
	if w.Asked(now, 3, 0); roused() {
		t.Error("Run looks at each probe")
	}
}

func TestWatchHeard(t *testing.T) {
	var mu sync.Mutex
	w := NewWatch(&mu, WatchConfig{Native: true})
	now := time.Now().Add(time.Second)
	if !w.HeardAt().IsZero() || w.HeardAgo(now) != NeverHeard {
		t.Error("heard before anything came")
	}
	if !w.Alive(now) || w.Alive(now) {
		t.Error("the first datagram is not told from others")
	}
	if !w.HeardAt().Equal(now) {
		t.Errorf("heard at %v, want %v", w.HeardAt(), now)
	}
	for _, tt := range []struct {
		after time.Duration
		want  uint32
	}{{0, 0}, {-time.Second, 0}, {1234 * time.Millisecond, 1234}, {365 * 24 * time.Hour, NeverHeard - 1}} {
		if got := w.HeardAgo(now.Add(tt.after)); got != tt.want {
			t.Errorf("HeardAgo after %v = %d, want %d", tt.after, got, tt.want)
		}
	}
	if w.Alive(w.epoch.Add(-time.Hour)); w.HeardAt().IsZero() {
		t.Error("a datagram that was read before the path was made is forgotten")
	}
}

func TestWatchDataPlaneDoesNotAllocate(t *testing.T) {
	var mu sync.Mutex
	w := NewWatch(&mu, WatchConfig{Native: true})
	now := time.Now()
	mu.Lock() // nor does it wait for the path's mutex
	if n := testing.AllocsPerRun(100, func() { w.Busy(); w.Alive(now) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
