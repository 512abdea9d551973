package control

import (
	"context"
	"crypto/ecdh"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
	"meshd/transport"
)

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
			if err := m.greet(ctx, stream, c.Name(), nil, 0); err != nil {
				m.noteRefused(Candidate{c.Name(), from}, err)
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

// greet shakes hands over a new stream of a carrier and adds the session to the
// mesh. t is the target that was dialled, nil for an accepted stream; expect is the peer that
// discovery says is there, 0 where any will do: another one is an error, though the
// session is kept. After all other errors the stream is closed. An accepted stream that
// is not a session's is handed to whose it is.
func (m *Mesh) greet(ctx context.Context, stream Stream, carrier string, t *target, expect frame.PeerName) (err error) {
	s := &session{
		stream: stream, carrier: carrier, dialled: t != nil, target: t, addr: addrPort(stream.RemoteAddr()),
		out: newOutQueue(), answer: rate.NewLimiter(answersPerSec, answersBurst),
	}
	if err := s.shakeHands(ctx, m); err != nil {
		if other, ok := errors.AsType[*notOursError](err); ok {
			other.take(ctx, stream)
			return nil
		}
		stream.Close()
		return err
	}
	s.ctx, s.cancel = context.WithCancelCause(m.ctx)
	if !m.do(func() { err = m.addSession(s) }) {
		err = errStopping
	}
	if err != nil {
		s.cancel(err)
		s.tellRefused(err)
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
	if m.cfg.Stock { // which knows no features of ours
		conn.Features.Native = false
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
		Native: true, Port: m.cfg.Port, Abilities: []string{AbilityProbe, AbilityLeave, AbilityRefusal, AbilityRest},
		Ephemeral: (*[32]byte)(ephemeral.PublicKey().Bytes()),
	}
	if m.cfg.Stock {
		h.features.Native, h.features.Abilities, h.features.Ephemeral = false, nil, nil
		h.features.Port = 0
	} else if m.cfg.Identity != nil {
		h.features.Abilities = append(h.features.Abilities, AbilityIdentity)
	}
	for _, p := range m.set.TrustedSubnets {
		h.features.Trusted = h.features.Trusted || p.Contains(addr)
	}
	return h
}

// noteRefused logs what an operator must know of a refused connection, at most
// once in a while for each address. One that hung up without a word is not worth
// it: its peer may be connected over another carrier by now.
func (m *Mesh) noteRefused(from Candidate, err error) {
	for _, ordinary := range []error{errDuplicate, errSelf, errStopping, errUnspoken} {
		if errors.Is(err, ordinary) {
			return
		}
	}
	m.do(func() {
		if m.refusals.worth(from.Addr.Addr(), time.Now()) {
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
