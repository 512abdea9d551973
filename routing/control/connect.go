package control

import (
	"cmp"
	"context"
	"crypto/ecdh"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
	"meshd/transport"
)

// dialStagger is the time between the starts of attempts at several addresses of
// one target, RFC 8305 section 5.
const dialStagger = 250 * time.Millisecond

// userTimeout ends a session with a meshd peer that acknowledges nothing, long
// before TCP gives up by itself.
const userTimeout = 10 * time.Second

// accept takes connections until ctx is done. Those that the gate does not let in
// are closed at once, so that they keep no others waiting.
func (m *Mesh) accept(ctx context.Context, c Carrier) {
	for {
		stream, err := c.Accept(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			m.log.Warn("cannot accept a connection", "err", err)
			if !pause(ctx, time.Second) {
				return
			}
			continue
		}
		from := addrPort(stream.RemoteAddr())
		if !m.gate.enter(from.Addr(), time.Now()) {
			stream.Close()
			continue
		}
		m.wg.Go(func() {
			defer m.gate.leave(from.Addr())
			if err := m.greet(ctx, stream, nil, 0); err != nil {
				m.noteRefused(from, err)
			}
		})
	}
}

// pause waits for d; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// dialDue starts the attempts that are due and returns when the next one is.
func (m *Mesh) dialDue(now time.Time) time.Time {
	if limit := m.set.ConnLimit; limit > 0 && len(m.sessions) >= limit {
		return now.Add(gossipInterval)
	}
	due, next := m.targets.Due(now, m.set.Discovery)
	for _, t := range due {
		ctx, cancel := context.WithCancel(m.ctx)
		t.cancel = cancel
		candidates := m.targets.free(t)
		m.wg.Go(func() {
			defer cancel()
			outcomes := m.attempt(ctx, t, candidates)
			m.do(func() { m.finished(t, outcomes) })
		})
	}
	return next
}

// finished notes how an attempt ended, and logs a configured target's new reason
// for not answering.
func (m *Mesh) finished(t *target, outcomes []outcome) {
	before := t.err
	m.targets.Finished(t, outcomes, time.Now())
	if t.direct && t.err != nil && (before == nil || before.Error() != t.err.Error()) {
		m.log.Warn("target does not answer", "target", t.spec, "err", t.err)
	}
}

// attempt tries all addresses of a target, each one's start a little after the
// one before, until one becomes a session. Of t only what never changes is read
// here.
func (m *Mesh) attempt(ctx context.Context, t *target, candidates []netip.AddrPort) (out []outcome) {
	addrs, err := m.addresses(ctx, t, candidates)
	if err != nil {
		return []outcome{{err: err}}
	}
	there := false
	m.do(func() {
		t.resolved = addrs
		there = m.targets.has(t)
	})
	if there { // its peer had connected to us, or was reached another way
		return []outcome{{addrs[0], errDuplicate}}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan outcome, len(addrs)) // one send for each attempt
	for i, addr := range addrs {
		m.wg.Go(func() {
			if !pause(ctx, time.Duration(i)*dialStagger) {
				results <- outcome{addr, ctx.Err()}
				return
			}
			results <- outcome{addr, m.dial(ctx, t, addr)}
		})
	}
	for range addrs {
		o := <-results
		if o.err == nil || errors.Is(o.err, errDuplicate) {
			return []outcome{o}
		}
		out = append(out, o)
	}
	return out
}

// dialError says that no connection could be made at all.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// addresses are where the target may be reached now.
func (m *Mesh) addresses(ctx context.Context, t *target, candidates []netip.AddrPort) ([]netip.AddrPort, error) {
	if t.host != "" {
		ips, err := m.resolve(ctx, t.host)
		if err != nil {
			return nil, &dialError{err}
		}
		candidates = nil
		for _, ip := range ips {
			candidates = append(candidates, netip.AddrPortFrom(ip.Unmap(), t.port))
		}
	}
	var out []netip.AddrPort
	var refused string
	for _, c := range candidates {
		if m.cfg.Refuse != nil {
			if why := m.cfg.Refuse(c.Addr()); why != "" {
				refused = fmt.Sprintf("%s is not dialled: %s", c, why)
				continue
			}
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, &dialError{errors.New(cmp.Or(refused, "no address known"))}
	}
	return out[:min(len(out), maxCandidates)], nil
}

func (m *Mesh) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ips, err := m.cfg.Resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	return ips, nil
}

// dial makes one connection and shakes hands over it. The first carrier that
// connects is used.
func (m *Mesh) dial(ctx context.Context, t *target, addr netip.AddrPort) error {
	var errs error
	for _, c := range m.cfg.Carriers {
		for tries := 1; ; tries++ {
			stream, err := c.Dial(ctx, addr)
			if err != nil {
				errs = errors.Join(errs, err)
				break
			}
			var expect frame.PeerName
			if !t.direct {
				expect = t.name
			}
			err = m.greet(ctx, stream, t, expect)
			if !m.another(addr, err, tries) {
				return err
			}
		}
	}
	return &dialError{errs}
}

// greet shakes hands over a new stream and adds the session to the mesh. t is the
// target that was dialled, nil for an accepted stream; expect is the peer that
// discovery says is there, 0 where any will do: another one is an error, though the
// session is kept. After all other errors the stream is closed.
func (m *Mesh) greet(ctx context.Context, stream Stream, t *target, expect frame.PeerName) (err error) {
	s := &session{
		stream: stream, dialled: t != nil, target: t, addr: addrPort(stream.RemoteAddr()),
		out: newOutQueue(), answer: rate.NewLimiter(answersPerSec, answersBurst),
	}
	if err := s.shakeHands(ctx, m); err != nil {
		stream.Close()
		return err
	}
	s.ctx, s.cancel = context.WithCancelCause(m.ctx)
	if !m.do(func() { err = m.addSession(s) }) {
		err = errStopping
	}
	if err != nil {
		s.cancel(err)
		stream.Close()
		return err
	}
	if expect != 0 && expect != s.peer.Name { // welcome, but not who was looked for
		return &strangerError{name: s.peer.Name, wanted: expect, addr: s.addr}
	}
	return nil
}

// shakeHands runs the handshake and fills in what it negotiated.
func (s *session) shakeHands(ctx context.Context, m *Mesh) error {
	ephemeral, err := NewEphemeral(crand.Read)
	if err != nil {
		return err
	}
	var hello localHello
	if !m.do(func() {
		hello = m.hello(s.addr.Addr(), ephemeral)
		if s.dialled {
			hello.passwords = m.worked.order(hello.passwords, s.addr)
		}
	}) {
		return errStopping
	}
	s.trusted = hello.features.Trusted
	conn, err := Handshake(ctx, s.stream, HandshakeConfig{
		Dialled: s.dialled, MinVersion: byte(hello.minProtocol), Passwords: hello.passwords,
		Identity: m.cfg.Identity, Features: hello.features.FeatureMap,
	})
	if err != nil {
		return err
	}
	f := conn.Features
	s.conn, s.uid, s.native = conn, conn.UID, f.Can(AbilityProbe)
	s.peer = transport.Peer{Name: f.Name, NickName: f.NickName, UID: f.UID}
	s.heard.Store(time.Now().UnixNano())
	if s.common, s.tagged, err = CommonOverlays(m.cfg.Set.Names(), f); err != nil || !s.native {
		return err
	}
	if s.secret, err = conn.PathSecret(hello.ephemeral); err != nil {
		return err
	}
	if u, ok := s.stream.(interface{ SetUserTimeout(time.Duration) error }); ok {
		return u.SetUserTimeout(userTimeout)
	}
	return nil
}

// localHello is our side of a handshake.
type localHello struct {
	features    Features
	ephemeral   *ecdh.PrivateKey
	minProtocol int
	passwords   []Password
}

// hello is what we say of ourselves to a peer at addr.
func (m *Mesh) hello(addr netip.Addr, ephemeral *ecdh.PrivateKey) localHello {
	self := m.topo.Self()
	h := localHello{ephemeral: ephemeral, minProtocol: m.set.MinProtocol, passwords: m.set.Passwords}
	h.features = Features{
		Name: self.Name, NickName: self.NickName, UID: self.UID, ConnID: rand.Uint64(),
		ShortID: self.ShortID, HasShortID: self.HasShortID,
		Overlays: m.cfg.Set.Names(), HasOverlays: true,
		Native: true, Abilities: []string{AbilityProbe, AbilityLeave},
		Ephemeral: (*[32]byte)(ephemeral.PublicKey().Bytes()),
	}
	if m.cfg.Identity != nil {
		h.features.Abilities = append(h.features.Abilities, AbilityIdentity)
	}
	for _, p := range m.set.TrustedSubnets {
		h.features.Trusted = h.features.Trusted || p.Contains(addr)
	}
	return h
}

// noteRefused logs what an operator must know of a refused connection, at most
// once in a while for each address.
func (m *Mesh) noteRefused(from netip.AddrPort, err error) {
	if errors.Is(err, errDuplicate) || errors.Is(err, errSelf) || errors.Is(err, errStopping) {
		return
	}
	m.do(func() {
		if m.refusals.worth(from.Addr(), time.Now()) {
			m.log.Warn("connection from peer refused", "addr", from, "err", err)
		}
	})
}

// Bounds of refusals.
const (
	refusalEvery = time.Minute
	maxRefusals  = 256
)

// refusals remembers which addresses a refused connection was logged for, so that
// nobody fills the log. Owned by the mesh's goroutine.
type refusals map[netip.Addr]time.Time

func (r refusals) worth(from netip.Addr, now time.Time) bool {
	if at, ok := r[from]; ok && now.Sub(at) < refusalEvery {
		return false
	}
	if len(r) >= maxRefusals {
		for a, at := range r {
			if now.Sub(at) >= refusalEvery {
				delete(r, a)
			}
		}
		if len(r) >= maxRefusals {
			return false
		}
	}
	r[from] = now
	return true
}
