package portmap

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// DefaultPort and DefaultLifetime are what a Config's zero values mean.
	DefaultPort     = 6785
	DefaultLifetime = 2 * time.Hour

	// headStartTime is how far ahead of UPnP NAT-PMP is asked: one datagram where
	// UPnP takes a search and several connections.
	headStartTime = 250 * time.Millisecond
	lookTime      = 3 * time.Second // at most for one gateway
	maxGateways   = 3
	lostRest      = 10 * time.Minute // until a mapping that is lost again is news again
	tidyTime      = 500 * time.Millisecond
	exitTime      = time.Second
	maxLeft       = 8
)

var errNoGateway = errors.New("there is no default route with an IPv4 gateway")

// times are what tests shorten.
type times struct {
	check      time.Duration // between looks whether the gateway knows the mapping
	retry      time.Duration // after a failure, doubled with each
	retryHeld  time.Duration // at most, while a mapping holds
	retryMost  time.Duration // at most
	again      time.Duration // least time between looks that Again asks for
	leastLease time.Duration // a gateway that grants less is of no use
}

var usual = times{
	check:      time.Minute,
	retry:      5 * time.Second,
	retryHeld:  time.Minute,
	retryMost:  15 * time.Minute,
	again:      time.Second,
	leastLease: 10 * time.Second,
}

// Config is what a Mapper needs; its zero value works.
type Config struct {
	Port     uint16        // our UDP port; 0: DefaultPort
	Lifetime time.Duration // to ask for, at most a week; 0: DefaultLifetime
	// Gateways finds the gateways to ask, the best first; nil: Gateways. Of more
	// than three the rest is not asked.
	Gateways func() ([]Gateway, error)
	// Refuse says why an address is on the overlay or otherwise not to be used,
	// as a gateway or as an external address; "": it may be. nil refuses none.
	Refuse func(netip.Addr) string
	// Changed is told of each mapping that differs from the one before in what
	// peers have to know, and of one that the gateway had lost and has again; the
	// zero Mapping: there is none any more. Of the end of Run it is not told. nil:
	// nobody is. All three are called from Run's goroutine only.
	Changed func(Mapping)
	Log     *slog.Logger // nil: none
}

// Mapper keeps a port of the home gateway forwarded to us. Its methods may be
// called concurrently, Run once.
type Mapper struct {
	cfg   Config
	times times
	// open makes the askers of a gateway, in the order of their head start.
	open  func(Gateway) []asker
	again chan struct{} // Again sends, Run receives; full: Run will look anyway

	// Run's own.
	gateways []Gateway // as seen last
	held     *holding  // nil: no mapping
	left     []leftover
	want     uint16 // external port to ask for
	failures int    // since the last success

	mu      sync.Mutex // guards what follows
	current Mapping
	lostAt  time.Time // when a lost mapping was news, last
	why     string
}

// holding is the mapping that there is.
type holding struct {
	found
	mapping Mapping
	renew   time.Time
	until   time.Time // dropped then, if the gateway has not been reached before
}

// leftover is what an asker may have left on a gateway.
type leftover struct {
	gateway Gateway
	asker   asker
}

// New makes a Mapper; Run starts it.
func New(cfg Config) *Mapper {
	cfg.Port = cmp.Or(cfg.Port, DefaultPort)
	cfg.Lifetime = max(time.Second, min(cmp.Or(cfg.Lifetime, DefaultLifetime), maxLease))
	if cfg.Gateways == nil {
		cfg.Gateways = Gateways
	}
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	return &Mapper{
		cfg:   cfg,
		times: usual,
		open: func(g Gateway) []asker {
			return []asker{newNATPMP(g, cfg.Port), newUPnP(g, cfg.Port)}
		},
		again: make(chan struct{}, 1),
		want:  cfg.Port,
		why:   "not asked yet",
	}
}

// Current is the mapping there is, zero if none, and why it is missing or of no
// use to peers, or what is wrong with it; "" where all is well.
func (m *Mapper) Current() (Mapping, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current, m.why
}

// Again tells that the network has changed, or seems to have: the gateway is asked
// at once, and at most once a second. It does not wait.
func (m *Mapper) Again() {
	select {
	case m.again <- struct{}{}:
	default:
	}
}

// Run keeps the mapping until ctx is done, takes it away within a second, and
// returns nil.
func (m *Mapper) Run(ctx context.Context) error {
	ended := sync.OnceValue(time.Now)
	defer context.AfterFunc(ctx, func() { ended() })()
	for ctx.Err() == nil {
		start := time.Now()
		m.sleep(ctx, m.step(ctx), start)
	}
	m.leave(ended().Add(exitTime))
	return nil
}

// sleep waits until it is time for the next step, or Again says so.
func (m *Mapper) sleep(ctx context.Context, d time.Duration, last time.Time) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return
	case <-t.C:
		return
	case <-m.again:
	}
	m.failures = 0
	t.Reset(m.times.again - time.Since(last))
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// step does what is due and returns when to come again.
func (m *Mapper) step(ctx context.Context) time.Duration {
	gateways, err := m.cfg.Gateways()
	if err != nil {
		return m.failed(err)
	}
	changed := !slices.Equal(gateways, m.gateways)
	m.gateways = gateways
	if m.held != nil && !slices.Contains(gateways, m.held.gateway) {
		m.drop("the default route has changed")
		m.want = m.cfg.Port
	}
	if m.held != nil && !changed {
		if err = m.tend(ctx); err == nil {
			return m.rest()
		}
	}
	f, lookErr := m.look(ctx, gateways)
	if ctx.Err() != nil { // what was tried was cut short
		if lookErr == nil {
			m.later(f.gateway, f.asker)
		}
		return 0
	}
	lost := m.held != nil && errors.Is(err, errLost)
	if lookErr == nil {
		if lost {
			m.lost(err)
		}
		m.hold(ctx, f)
		return m.rest()
	}
	if lost {
		m.drop(err.Error())
	}
	return m.failed(lookErr)
}

// rest is how long nothing is to be done.
func (m *Mapper) rest() time.Duration {
	m.failures = 0
	return min(m.times.check, time.Until(m.held.renew))
}

// failed tells why there is no mapping, or none that was confirmed, and returns
// when to try again.
func (m *Mapper) failed(err error) time.Duration {
	wait, most := m.times.retry, m.times.retryMost
	if m.held != nil {
		most = m.times.retryHeld
	}
	for range m.failures {
		wait = min(2*wait, most)
	}
	m.failures++
	if m.held == nil {
		m.set(Mapping{}, err.Error())
		return wait
	}
	left := time.Until(m.held.until)
	if left <= 0 {
		m.drop(err.Error())
		return wait
	}
	m.set(m.held.mapping, "not confirmed: "+err.Error())
	return min(wait, left)
}

// tend checks the mapping, or renews it if it is time or its address changed.
func (m *Mapper) tend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	h := m.held
	if time.Now().Before(h.renew) {
		addr, err := h.asker.check(ctx)
		if err != nil {
			return err
		}
		if addr == h.lease.external.Addr() {
			m.confirm()
			return nil
		}
	}
	l, err := m.ask(ctx, h.asker)
	if err != nil {
		return err
	}
	m.hold(ctx, found{h.gateway, h.asker, l})
	return nil
}

// confirm notes that the gateway still knows the mapping.
func (m *Mapper) confirm() {
	h := m.held
	if h.lease.lifetime == 0 {
		h.until = time.Now().Add(m.cfg.Lifetime)
	}
	_, why := m.judge(h.gateway, h.asker, h.lease, time.Now())
	m.set(h.mapping, why)
}

// hold takes a mapping, new or renewed.
func (m *Mapper) hold(ctx context.Context, f found) {
	if old := m.held; old != nil && old.asker != f.asker {
		m.replace(ctx, old.found, f)
	}
	now := time.Now()
	lifetime := cmp.Or(f.lease.lifetime, m.cfg.Lifetime)
	mapping, why := m.judge(f.gateway, f.asker, f.lease, now)
	m.held = &holding{found: f, mapping: mapping, renew: now.Add(lifetime / 2), until: now.Add(lifetime)}
	m.want = f.lease.external.Port()
	m.set(mapping, why)
}

// replace cleans up behind a mapping in whose place there is another.
func (m *Mapper) replace(ctx context.Context, old, next found) {
	samePort := old.lease.external.Port() == next.lease.external.Port()
	switch {
	case old.gateway != next.gateway:
		m.tidy(ctx, old.gateway, old.asker)
	case old.asker.protocol() != next.asker.protocol():
		m.later(old.gateway, old.asker)
	case old.asker.protocol() == UPnP && !samePort:
		m.tidy(ctx, old.gateway, old.asker)
	}
}

// drop gives the mapping up.
func (m *Mapper) drop(why string) {
	m.later(m.held.gateway, m.held.asker)
	m.held = nil
	m.set(Mapping{}, why)
}

// lost notes that the gateway has lost the mapping, so that the next one is new to
// everybody even if it is the same. Of a gateway that loses it again and again that is
// news now and then only.
func (m *Mapper) lost(why error) {
	m.cfg.Log.Info("port mapping lost", "addr", m.held.mapping.External, "err", why)
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.lostAt) >= lostRest {
		m.lostAt, m.current = now, Mapping{}
	}
}

// tidy takes away what an asker may have left on a gateway.
func (m *Mapper) tidy(ctx context.Context, g Gateway, a asker) {
	if a.asked() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tidyTime)
	defer cancel()
	if err := a.remove(ctx); err != nil {
		m.later(g, a)
	}
}

// later remembers what is to be taken away when we end. Gateways have one table
// for all protocols: what one protocol removes may be what another has mapped.
func (m *Mapper) later(g Gateway, a asker) {
	if a.asked() == 0 {
		return
	}
	m.left = slices.DeleteFunc(m.left, func(l leftover) bool {
		return l.gateway == g && l.asker.protocol() == a.protocol() && l.asker.asked() == a.asked()
	})
	if len(m.left) == maxLeft {
		m.left = slices.Delete(m.left, 0, 1)
	}
	m.left = append(m.left, leftover{g, a})
}

// leave takes away all that is on the gateways, until the deadline.
func (m *Mapper) leave(deadline time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if m.held != nil {
		m.later(m.held.gateway, m.held.asker)
		m.held = nil
	}
	var wg sync.WaitGroup
	for _, l := range m.left {
		wg.Go(func() {
			if err := l.asker.remove(ctx); err != nil {
				m.cfg.Log.Info("a port mapping may be left on the gateway", "addr", l.gateway.Addr,
					"protocol", l.asker.protocol(), "port", l.asker.asked(), "err", inOneLine([]error{err}))
			}
		})
	}
	wg.Wait()
	m.left = nil
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current, m.why = Mapping{}, "ended"
}

// set makes a mapping the current one and tells of what has changed.
func (m *Mapper) set(mapping Mapping, why string) {
	m.mu.Lock()
	before, whyBefore := m.current, m.why
	m.current, m.why = mapping, why
	m.mu.Unlock()
	if before.same(mapping) {
		if why != whyBefore {
			m.tell(mapping, why)
		}
		return
	}
	m.tell(mapping, why)
	if m.cfg.Changed != nil {
		m.cfg.Changed(mapping)
	}
}

func (m *Mapper) tell(mapping Mapping, why string) {
	log := m.cfg.Log
	switch {
	case !mapping.External.IsValid():
		log.Info("no port mapping", "err", why)
	case why == "":
		log.Info("port mapping", "addr", mapping.External, "protocol", mapping.Protocol, "gateway", mapping.Gateway)
	default:
		log.Info("port mapping in doubt", "addr", mapping.External, "protocol", mapping.Protocol,
			"gateway", mapping.Gateway, "err", why)
	}
}
