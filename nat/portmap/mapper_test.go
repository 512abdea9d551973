package portmap

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is an asker that does what it is told, and says what it was asked.
type script struct {
	name string

	mu       sync.Mutex // guards what follows
	calls    []string
	err      error // of add and check
	checkErr error // of check alone
	lease    lease
	takes    time.Duration // each call
	port     uint16        // asked
	stuck    bool          // remove does nothing until its ctx is done
}

var _ asker = (*script)(nil)

func newScript(name string) *script {
	return &script{name: name, lease: lease{netip.AddrPortFrom(externalAddr, DefaultPort), 2 * time.Hour}}
}

func (s *script) protocol() string { return s.name }

// call notes a call and lets its time pass.
func (s *script) call(ctx context.Context, what string) error {
	s.mu.Lock()
	s.calls = append(s.calls, what)
	takes := s.takes
	s.mu.Unlock()
	select {
	case <-time.After(takes):
		return nil
	case <-ctx.Done():
		return errSilent
	}
}

func (s *script) add(ctx context.Context, external uint16, _ time.Duration) (lease, error) {
	if err := s.call(ctx, "add"); err != nil {
		return lease{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return lease{}, s.err
	}
	s.port = s.lease.external.Port()
	return s.lease, nil
}

func (s *script) check(ctx context.Context) (netip.Addr, error) {
	if err := s.call(ctx, "check"); err != nil {
		return netip.Addr{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease.external.Addr(), errors.Join(s.err, s.checkErr)
}

func (s *script) asked() uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

func (s *script) remove(ctx context.Context) error {
	if err := s.call(ctx, "remove"); err != nil {
		return err
	}
	s.mu.Lock()
	stuck := s.stuck
	s.mu.Unlock()
	if stuck {
		<-ctx.Done()
		return errSilent
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port = 0
	return nil
}

func (s *script) set(change func(*script)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// took returns the calls since the last took.
func (s *script) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// play is a Mapper with scripted askers that runs in a bubble.
type play struct {
	*Mapper
	pmp, upnp *script
	cancel    context.CancelFunc
	done      chan struct{} // closed when Run is back

	mu       sync.Mutex // guards what follows
	gateways []Gateway
	changes  []Mapping
}

func newPlay() *play {
	p := &play{pmp: newScript(NATPMP), upnp: newScript(UPnP), gateways: []Gateway{testGateway}}
	p.Mapper = New(Config{
		Gateways: func() ([]Gateway, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return slices.Clone(p.gateways), nil
		},
		Changed: func(m Mapping) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changes = append(p.changes, m)
		},
	})
	p.open = func(Gateway) []asker { return []asker{p.pmp, p.upnp} }
	return p
}

func (p *play) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
}

// end ends it and returns how long that took.
func (p *play) end() time.Duration {
	start := time.Now()
	p.cancel()
	<-p.done
	return time.Since(start)
}

func (p *play) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// changed returns what peers were told since the last time.
func (p *play) changed() []Mapping {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.changes
	p.changes = nil
	return c
}

func (p *play) setGateways(g ...Gateway) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gateways = g
}

func (p *play) expect(t *testing.T, external, why string) {
	t.Helper()
	m, got := p.Current()
	have := ""
	if m.External.IsValid() {
		have = m.External.String()
	}
	if have != external || !strings.Contains(got, why) || (got == "") != (why == "") {
		t.Errorf("Current() = %q, %q, want %q, %q", have, got, external, why)
	}
}

const mappedAt = external + ":6785"

func count(calls []string, call string) int {
	n := 0
	for _, c := range calls {
		if c == call {
			n++
		}
	}
	return n
}

func TestMapperRenewsAndRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.expect(t, "", "not asked yet")
		p.start(t)
		p.expect(t, mappedAt, "")
		want := Mapping{External: netip.MustParseAddrPort(mappedAt), Protocol: NATPMP, Gateway: testGateway.Addr, Expires: time.Now().Add(2 * time.Hour)}
		if got := p.changed(); len(got) != 1 || got[0] != want {
			t.Errorf("told of %v, want %v", got, want)
		}
		p.pmp.took()
		p.wait(time.Hour - time.Second)
		if got := p.pmp.took(); count(got, "check") != 59 || count(got, "add") != 0 {
			t.Errorf("in the first hour: %d checks and %d renewals", count(got, "check"), count(got, "add"))
		}
		p.wait(time.Second)
		if got := p.pmp.took(); count(got, "add") != 1 {
			t.Errorf("after an hour: %v, want a renewal", got)
		}
		if m, _ := p.Current(); m.Expires != time.Now().Add(2*time.Hour) {
			t.Errorf("expires in %v, want 2h", time.Until(m.Expires))
		}
		p.wait(24 * time.Hour)
		p.pmp.took()
		p.end()
		if got := p.pmp.took(); !slices.Equal(got, []string{"remove"}) {
			t.Errorf("at the end: %v, want one removal", got)
		}
		if got := p.changed(); len(got) != 0 {
			t.Errorf("told of %v, want nothing more", got)
		}
		if got := p.upnp.took(); len(got) > 0 {
			t.Errorf("UPnP was asked: %v", got)
		}
		p.expect(t, "", "ended")
	})
}

// NAT-PMP has 250 ms before UPnP is asked too; the first answer counts.
func TestMapperHeadStart(t *testing.T) {
	tests := []struct {
		name      string
		pmp, upnp time.Duration
		fails     bool // NAT-PMP
		want      string
		after     time.Duration
	}{
		{"within the head start", 200 * time.Millisecond, 0, false, NATPMP, 200 * time.Millisecond},
		{"after it", 400 * time.Millisecond, time.Second, false, NATPMP, 400 * time.Millisecond},
		{"overtaken", time.Second, 100 * time.Millisecond, false, UPnP, 350 * time.Millisecond},
		{"silent", time.Hour, 100 * time.Millisecond, false, UPnP, 350 * time.Millisecond},
		{"failed at once", 10 * time.Millisecond, 100 * time.Millisecond, true, UPnP, 110 * time.Millisecond},
		{"both silent", time.Hour, time.Hour, false, "", lookTime},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlay()
				p.pmp.takes, p.upnp.takes = tt.pmp, tt.upnp
				if tt.fails {
					p.pmp.err = errSilent
				}
				start := time.Now()
				f, err := p.look(t.Context(), []Gateway{testGateway})
				got := ""
				if err == nil {
					got = f.asker.protocol()
				}
				if took := time.Since(start); got != tt.want || took != tt.after {
					t.Errorf("look = %q, %v after %v, want %q after %v", got, err, took, tt.want, tt.after)
				}
			})
		})
	}
}

// What the loser may have left is taken away at the end, not before: on many
// gateways it is the very mapping that the winner has.
func TestMapperLoser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.pmp.takes = time.Hour
		p.pmp.port = DefaultPort // was asked for, and never answered
		p.start(t)
		p.wait(time.Second)
		p.expect(t, mappedAt, "")
		if got := p.pmp.took(); count(got, "remove") > 0 {
			t.Errorf("the loser was removed: %v", got)
		}
		p.pmp.set(func(s *script) { s.takes = 0 })
		p.end()
		if a, b := p.pmp.took(), p.upnp.took(); count(a, "remove") != 1 || count(b, "remove") != 1 {
			t.Errorf("at the end: %v and %v, want both removed", a, b)
		}
	})
}

func TestMapperBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.pmp.err, p.upnp.err = errSilent, errSilent
		p.start(t)
		p.expect(t, "", "gateway 192.168.7.1 forwards no port for us: NAT-PMP: no answer; UPnP: no answer")
		p.wait(24 * time.Hour)
		got := count(p.pmp.took(), "add")
		// 5 s, 10 s, … 640 s, then every 15 min.
		if got < 90 || got > 110 {
			t.Errorf("asked %d times in a day, want about 100", got)
		}
		p.wait(7 * time.Minute)
		p.pmp.took()
		p.Again()
		synctest.Wait()
		if got := count(p.pmp.took(), "add"); got != 1 {
			t.Errorf("asked %d times after Again, want once", got)
		}
		p.wait(6 * time.Second)
		if got := count(p.pmp.took(), "add"); got != 1 {
			t.Errorf("asked %d times, want once: the back-off starts anew", got)
		}
		if got := p.changed(); len(got) > 0 {
			t.Errorf("told of %v, want nothing", got)
		}
		p.pmp.set(func(s *script) { s.err = nil })
		p.wait(15 * time.Minute)
		p.expect(t, mappedAt, "")
		p.end()
	})
}

// Again is free for its caller, and asks at most once a second.
func TestMapperAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.start(t)
		p.pmp.took()
		for range 1000 {
			p.Again()
		}
		p.wait(10 * time.Millisecond)
		for range 1000 {
			p.Again()
			p.wait(10 * time.Millisecond)
		}
		if got := count(p.pmp.took(), "check"); got < 10 || got > 12 {
			t.Errorf("%d checks in 10 s, want one per second", got)
		}
		p.end()
	})
}

// A gateway that has forgotten is asked again at once, and peers are told: what went
// through the mapping has died.
func TestMapperLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.start(t)
		p.changed()
		p.pmp.took()
		p.pmp.set(func(s *script) { s.checkErr = errLost })
		p.wait(time.Minute)
		if got := p.pmp.took(); !slices.Equal(got, []string{"check", "add"}) {
			t.Errorf("calls %v, want check and add", got)
		}
		p.expect(t, mappedAt, "")
		if got := p.changed(); len(got) != 1 || !got[0].External.IsValid() {
			t.Errorf("told of %v, want that it is there again", got)
		}
		p.pmp.set(func(s *script) { s.err = errors.New("refused") })
		p.upnp.set(func(s *script) { s.err = errSilent })
		p.wait(time.Minute)
		p.expect(t, "", "NAT-PMP: refused; UPnP: no answer")
		if got := p.changed(); len(got) != 1 || got[0] != (Mapping{}) {
			t.Errorf("told of %v, want that it is gone", got)
		}
		p.end()
	})
}

// A gateway that falls silent may come back: the mapping holds until it expires.
func TestMapperSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.start(t)
		p.pmp.set(func(s *script) { s.err = errSilent })
		p.upnp.set(func(s *script) { s.err = errSilent })
		p.wait(90 * time.Minute)
		p.expect(t, mappedAt, "not confirmed")
		p.pmp.set(func(s *script) { s.err = nil })
		p.wait(time.Minute + time.Second)
		p.expect(t, mappedAt, "")
		if got := p.changed(); len(got) != 1 {
			t.Errorf("told of %v, want of the first only", got)
		}
		p.pmp.set(func(s *script) { s.err = errSilent })
		p.wait(2*time.Hour - 2*time.Minute)
		p.expect(t, mappedAt, "not confirmed")
		p.wait(2 * time.Minute)
		p.expect(t, "", "no answer")
		if got := p.changed(); len(got) != 1 || got[0] != (Mapping{}) {
			t.Errorf("told of %v, want that it is gone", got)
		}
		p.end()
	})
}

func TestMapperNewExternalAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.start(t)
		p.changed()
		for _, tt := range []struct {
			external string
			double   bool
			why      string
		}{
			{"198.51.100.7:6785", false, ""},
			{"10.0.0.7:6785", true, "double NAT"},
			{"100.64.3.4:6785", true, "100.64.0.0/10"},
			{mappedAt, false, ""},
		} {
			p.pmp.set(func(s *script) { s.lease.external = netip.MustParseAddrPort(tt.external) })
			p.wait(time.Minute)
			p.expect(t, tt.external, tt.why)
			got := p.changed()
			if len(got) != 1 || got[0].External.String() != tt.external || got[0].DoubleNAT != tt.double {
				t.Errorf("told of %v, want %s, double NAT: %v", got, tt.external, tt.double)
			}
		}
		p.end()
	})
}

func TestMapperShortLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.pmp.lease.lifetime = 9 * time.Second
		p.upnp.lease.lifetime = 20 * time.Second
		p.start(t)
		p.wait(time.Minute + time.Second)
		if m, _ := p.Current(); m.Protocol != UPnP {
			t.Errorf("Current() = %v, want one that lasts", m)
		}
		if got := count(p.upnp.took(), "add"); got != 7 {
			t.Errorf("asked %d times in a minute, want every 10 s", got)
		}
		p.end()
	})
}

func TestMapperPermanent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.pmp.err = errSilent
		p.upnp.lease.lifetime = 0
		p.start(t)
		m, why := p.Current()
		if !m.Expires.IsZero() || m.Protocol != UPnP || why != "" {
			t.Errorf("Current() = %+v, %q, want a mapping for ever", m, why)
		}
		p.wait(24 * time.Hour)
		p.expect(t, mappedAt, "")
		// Out of reach for longer than a lease: not to be relied on.
		p.upnp.set(func(s *script) { s.err = errSilent })
		p.wait(3 * time.Hour)
		p.expect(t, "", "no answer")
		p.end()
		if got := p.upnp.took(); count(got, "remove") == 0 || p.upnp.asked() != 0 {
			t.Errorf("at the end: %v, want a removal all the same", got)
		}
	})
}

func TestMapperNetworkChanges(t *testing.T) {
	other := testGateway
	other.Interface, other.Addr, other.Local = "wlan0", netip.MustParseAddr("192.168.9.1"), netip.MustParseAddr("192.168.9.2")
	synctest.Test(t, func(t *testing.T) {
		p := newPlay()
		p.start(t)
		p.changed()
		p.setGateways(other, testGateway) // a better route
		p.Again()
		p.wait(time.Second)
		if m, _ := p.Current(); m.Gateway != other.Addr {
			t.Errorf("mapped by %v, want %v", m.Gateway, other.Addr)
		}
		if got := p.changed(); len(got) != 1 {
			t.Errorf("told of %v, want one change", got)
		}
		p.setGateways(testGateway)
		p.Again()
		p.wait(time.Second)
		if m, _ := p.Current(); m.Gateway != testGateway.Addr {
			t.Errorf("mapped by %v, want %v", m.Gateway, testGateway.Addr)
		}
		p.changed()
		p.setGateways()
		p.Again()
		p.wait(time.Second)
		p.expect(t, "", errNoGateway.Error())
		if got := p.changed(); len(got) != 1 || got[0] != (Mapping{}) {
			t.Errorf("told of %v, want that it is gone", got)
		}
		p.end()
	})
}

// The end takes a second at most, whatever it interrupts.
func TestMapperEnds(t *testing.T) {
	tests := []struct {
		name   string
		change func(*play)
		after  time.Duration
		want   time.Duration // at most
	}{
		{"while it asks", func(p *play) { p.pmp.takes = time.Hour }, 100 * time.Millisecond, 0},
		{"while it holds", func(*play) {}, time.Minute, 0},
		{"while it waits", func(p *play) { p.pmp.err, p.upnp.err = errSilent, errSilent }, time.Minute, 0},
		{"at a stuck gateway", func(p *play) { p.pmp.stuck = true }, time.Minute, exitTime},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlay()
				tt.change(p)
				p.start(t)
				p.wait(tt.after)
				if took := p.end(); took > tt.want {
					t.Errorf("the end took %v, want at most %v", took, tt.want)
				}
			})
		})
	}
}

// What is left of failures does not grow.
func TestMapperLeftoversAreBounded(t *testing.T) {
	m := New(Config{})
	for i := range 100 {
		s := newScript(UPnP)
		s.port = uint16(50000 + i)
		m.later(testGateway, s)
		m.later(testGateway, s)
	}
	if len(m.left) != maxLeft {
		t.Errorf("%d leftovers, want %d", len(m.left), maxLeft)
	}
	nothing := newScript(UPnP)
	m.later(testGateway, nothing)
	if got := m.left[maxLeft-1].asker; got == nothing {
		t.Error("what has left nothing is remembered")
	}
}
