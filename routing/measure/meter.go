package measure

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"meshd/internal/frame"
)

// MinTime and MaxTime bound Options.Time.
const (
	MinTime = time.Second
	MaxTime = time.Minute
)

// Why a measurement was not made.
var (
	ErrBusy     = errors.New("another measurement is running here: try again later")
	ErrPeerBusy = errors.New("other peers are measuring the way to this one: try again later")
	ErrSilent   = errors.New("the peer does not answer: control connections on the way may be stalled (try again in half a minute), or it is a stock Weave router or a meshd that is too old")
	ErrNoFrames = errors.New("the peer answers over the control plane, but no frame gets there and back")
)

// Config is what a Meter needs. Everything but Self are functions that may be
// called concurrently and must not wait for a peer.
type Config struct {
	Self frame.PeerName
	// Send sends packets to their Dst and returns how many were taken. It is
	// routing.Forwarder.Originate. packets is borrowed.
	Send func(packets []frame.Packet) (int, error)
	// Way finds the first hop to a peer, and a function like Send that sends by it,
	// even if the routes have changed by then; it fails where there is no hop.
	Way func(dst frame.PeerName) (Hop, func(packets []frame.Packet) (int, error))
	// Tell sends a message on Channel to a peer, through the control plane.
	Tell func(dst frame.PeerName, msg []byte) error
}

// Meter measures the ways to other peers and answers those that measure theirs to
// us. All methods may be called concurrently.
type Meter struct {
	cfg      Config
	answerer *answerer
	one      sync.Mutex          // held while measuring
	run      atomic.Pointer[run] // the measurement that is running; nil: none

	mu    sync.Mutex       // guards pings; held for no call out
	pings map[uint64]*ping // that are running, by session
}

// New makes a meter. It starts nothing.
func New(cfg Config) *Meter {
	return &Meter{cfg: cfg, answerer: newAnswerer(), pings: map[uint64]*ping{}}
}

// Options says how to measure.
type Options struct {
	Time time.Duration // MinTime to MaxTime
	// MTU is how large the IP packets would be whose place the frames take, in
	// bytes: frames have 14 bytes more.
	MTU int
}

// Measure measures the way to peer and takes about o.Time, never 5 s more. The
// error is one of the above, that of Config.Tell, or ctx's.
func (m *Meter) Measure(ctx context.Context, peer frame.PeerName, o Options) (Result, error) {
	if !m.one.TryLock() {
		return Result{}, ErrBusy
	}
	defer m.one.Unlock()
	o.Time = min(max(o.Time, MinTime), MaxTime)
	ctx, cancel := context.WithTimeoutCause(ctx, o.Time+overtime, ErrNoFrames)
	defer cancel()
	r := newRun(m.cfg, peer, o)
	m.run.Store(r)
	defer m.run.Store(nil)
	return r.measure(ctx)
}

// Take takes a packet for ourselves out of the traffic if it is a frame of a
// measurement, and reports whether it is. It is meant for routing.Config.Local.
func (m *Meter) Take(p frame.Packet) bool {
	if !isOurs(p.Frame.Data) {
		return false
	}
	msg, err := parse(p.Frame.Data)
	if err != nil {
		return true // of another version, but nothing for a bridge
	}
	switch msg.kind {
	case kindEchoReply, kindReport:
		m.answered(p.Src, msg, time.Now())
		return true
	}
	if answer, due := m.answerer.take(p.Src, msg, len(p.Frame.Data), time.Now()); due {
		m.answer(p, answer)
	}
	return true
}

// answered hands an answer to who waits for it.
func (m *Meter) answered(src frame.PeerName, msg message, now time.Time) {
	if r := m.run.Load(); r != nil && r.peer == src && r.session == msg.session {
		r.answered(msg, now)
		return
	}
	if msg.kind == kindEchoReply {
		if p := m.pingOf(src, msg.session); p != nil {
			p.answered(msg, now)
		}
	}
}

// answer answers a packet. What an echo brought is brought back, so that both
// directions carry the same.
func (m *Meter) answer(to frame.Packet, answer message) {
	size := MinFrame
	if answer.kind == kindEchoReply {
		size = len(to.Frame.Data)
	}
	reply := newPacket(m.cfg.Self, to.Src, size)
	hop, send := m.cfg.Way(to.Src)
	answer.hop = hop
	answer.put(reply.Frame.Data)
	_, _ = send([]frame.Packet{reply}) // who asked will notice
}

// Told takes a message of src on Channel. It is borrowed.
func (m *Meter) Told(src frame.PeerName, msg []byte) {
	o, err := parseOffer(msg)
	if err != nil {
		return
	}
	switch o.verb {
	case verbOffer:
		if answer, ok := m.answerer.offered(src, o, time.Now()); ok {
			_ = m.cfg.Tell(src, answer.append(nil)) // the offer is repeated
		}
	case verbClose:
		m.answerer.closed(src, o.session)
	case verbAccept, verbRefuse:
		if r := m.run.Load(); r != nil && r.peer == src && r.session == o.session {
			select {
			case r.decision <- o:
			default:
			}
		} else if p := m.pingOf(src, o.session); p != nil {
			p.told(o)
		}
	}
}

// tell wraps what Config.Tell says.
func (r *run) tell(o offer) error {
	if err := r.cfg.Tell(r.peer, o.append(nil)); err != nil {
		return fmt.Errorf("ask %s: %w", r.peer, err)
	}
	return nil
}
