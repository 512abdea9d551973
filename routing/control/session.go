package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
	"meshd/routing"
	"meshd/transport"
)

// Times and bounds of a session. Towards stock routers they are the weave
// protocol's (section 1.11); between meshd peers a dead one is noticed sooner.
const (
	stockHeartbeat  = 30 * time.Second
	stockSilence    = 60 * time.Second
	nativeHeartbeat = 5 * time.Second
	nativeSilence   = 20 * time.Second
	writeTimeout    = 20 * time.Second // for one batch of messages
	leaveTimeout    = 300 * time.Millisecond
	rxBytesPerSec   = 4 << 20 // what one neighbour may send in the long run
	rxBurst         = 24 << 20
	rxPerMessage    = 4 << 10 // what a message costs beside its bytes
	silenceLook     = time.Second
	answersPerSec   = 64 // entries told to a neighbour because it has an old one
	answersBurst    = routing.MaxPeers
)

// TagLeave is the tag of a goodbye, which only meshd peers that announced the
// ability to leave are sent. It has no body.
const TagLeave = 96

// Bare overlay control messages have the tags 1 to 3, weave protocol section 2.2.
const (
	firstBareTag = 1
	lastBareTag  = 3
)

// session is one control connection after its handshake. What the neighbour
// sends is read by one goroutine and handled in order; one other sends.
type session struct {
	stream  Stream
	carrier string // the name of its carrier
	conn    *Conn
	dialled bool
	target  *target        // dialled: what for; nil for accepted ones
	addr    netip.AddrPort // the other end
	peer    transport.Peer
	uid     uint64 // connection UID
	native  bool
	common  []string  // overlays both have, in our order
	tagged  bool      // overlay control goes in tag 7
	trusted bool      // we trust the other end's address
	secret  *[32]byte // root of native paths keys; nil towards stock peers
	auth    Authentication

	att    *transport.Attachment
	joined time.Time
	out    *outQueue
	answer *rate.Limiter // entries that correct the neighbour's; of the mesh's goroutine
	heard  atomic.Int64  // when the last message came, ns since the epoch
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// at is where the other end is.
func (s *session) at() Candidate { return Candidate{s.carrier, s.addr} }

// attach opens the session's paths.
func (s *session) attach(set *transport.Set, self transport.Peer) (err error) {
	sess := transport.Session{
		Local: self, Remote: s.peer, UID: s.uid, Dialled: s.dialled,
		Stream: s.stream, LocalAddr: addrPort(s.stream.LocalAddr()), RemoteAddr: s.addr, Native: s.native,
		Secret: s.secret, Authenticated: s.authenticated(), Rests: s.conn.Features.Can(AbilityRest),
	}
	if s.carrier != CarrierTCP {
		sess.ControlPort = s.conn.Features.Port
	}
	if sess.Key, err = s.sleeveKey(); err != nil {
		return err
	}
	s.att, err = set.Attach(sess, s.common, s.sendOverlayControl)
	return err
}

// sendOverlayControl queues a path's control message in the form that the
// connection uses, section 2.2.
func (s *session) sendOverlayControl(index int, tag byte, msg []byte) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	out := Message{Tag: tag, Body: slices.Clone(msg)}
	if s.tagged {
		out = Message{Tag: TagOverlay, Body: append([]byte{byte(index), tag}, msg...)}
	}
	if !s.out.pushControl(out) {
		return errSlow
	}
	return nil
}

// queueTopology sends topology entries as soon as the connection takes them.
func (s *session) queueTopology(names []frame.PeerName) { s.out.pushNames(names) }

// answerable are those of names that the neighbour may be told now because it has
// older entries. It is bounded because entries are much longer than what provokes
// them.
func (s *session) answerable(names []frame.PeerName) []frame.PeerName {
	for i := range names {
		if !s.answer.Allow() {
			return names[:i]
		}
	}
	return names
}

// start runs the session's goroutines. The paths run on when the session ends.
func (s *session) start(m *Mesh) {
	read := make(chan struct{}) // closed when nothing is read any more
	m.wg.Go(func() {
		s.att.Run(m.ctx)
		m.do(func() { m.endSession(s, errors.Join(errNoPath, s.att.Err())) })
	})
	m.wg.Go(func() {
		// What blocks in the stream ends with the session.
		defer context.AfterFunc(s.ctx, func() {
			_ = s.stream.SetReadDeadline(time.Unix(1, 0))
			_ = s.stream.SetWriteDeadline(time.Now().Add(leaveTimeout))
		})()
		err := s.write(m)
		if s.ctx.Err() == nil { // what the peer said last, before it hung up, tells more
			select {
			case <-read:
			case <-time.After(leaveTimeout):
			}
		}
		s.stream.Close()
		m.do(func() { m.endSession(s, err) })
	})
	m.wg.Go(func() {
		defer close(read)
		err := s.read(m)
		m.do(func() { m.endSession(s, err) })
	})
}

// close ends the session's goroutines.
func (s *session) close(why error) { s.cancel(why) }

// silent reports whether the neighbour has sent nothing for longer than a live
// one can.
func (s *session) silent() bool {
	limit := stockSilence
	if s.native {
		limit = nativeSilence / 2
	}
	return s.quiet() > limit
}

// quiet is for how long nothing was heard.
func (s *session) quiet() time.Duration { return time.Since(time.Unix(0, s.heard.Load())) }

func (s *session) silence() time.Duration {
	if s.native {
		return nativeSilence
	}
	return stockSilence
}

// read handles what the neighbour sends until the connection or session ends,
// and says why it did. It sets no deadline: after a freeze of our own it must get
// at what waits before anybody judges the neighbour's silence.
func (s *session) read(m *Mesh) error {
	limit := rate.NewLimiter(rxBytesPerSec, rxBurst)
	for {
		tag, body, err := s.conn.ReadMessage()
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if err != nil {
			return err
		}
		s.heard.Store(time.Now().UnixNano())
		if err := limit.WaitN(s.ctx, len(body)+rxPerMessage); err != nil {
			return context.Cause(s.ctx)
		}
		if err := s.handle(m, tag, body); err != nil {
			return err
		}
	}
}

// handle takes one message, weave protocol section 2. An error ends the session.
func (s *session) handle(m *Mesh, tag byte, body []byte) error {
	switch {
	case tag == TagHeartbeat:
		return nil
	case tag >= firstBareTag && tag <= lastBareTag && !s.tagged:
		return s.att.HandleControl(0, tag, body)
	case tag == TagOverlay && s.tagged:
		if len(body) < 2 {
			return fmt.Errorf("overlay control message of %d bytes", len(body))
		}
		return s.att.HandleControl(int(body[0]), body[1], body[2:])
	case tag >= TagGossip && tag <= TagGossipBroadcast:
		return m.takeGossip(s, tag, body)
	case tag == TagLeave && s.conn.Features.Can(AbilityLeave):
		return errLeft
	case tag == TagRefusal && s.conn.Features.Can(AbilityRefusal):
		return parseRefusal(body)
	}
	return nil // unknown tags are ignored, section 2
}

// write sends what is queued, and heartbeats, and listens for silence, until the
// session ends.
func (s *session) write(m *Mesh) error {
	interval := stockHeartbeat
	if s.native {
		interval = nativeHeartbeat
	}
	heartbeat, look := time.NewTicker(interval), time.NewTicker(silenceLook)
	defer heartbeat.Stop()
	defer look.Stop()
	silent := 0 // looks in a row that found the neighbour silent
	for {
		var err error
		select {
		case <-s.ctx.Done():
			return s.sayGoodbye(context.Cause(s.ctx))
		case <-heartbeat.C:
			err = s.send(Message{Tag: TagHeartbeat})
		case <-s.out.ready:
			err = s.sendQueued(m)
		case <-look.C:
			// Believed at the second look: before the first one we may have been frozen.
			if silent++; s.quiet() <= s.silence() {
				silent = 0
			} else if silent > 1 {
				return fmt.Errorf("nothing heard on the control connection for %v", s.silence())
			}
		}
		if err != nil {
			return fmt.Errorf("write to peer: %w", err)
		}
	}
}

// sendQueued sends all that waits: messages first, then topology entries.
func (s *session) sendQueued(m *Mesh) error {
	if err := s.send(s.out.takeMessages()...); err != nil {
		return err
	}
	names := s.out.takeNames()
	if len(names) == 0 {
		return nil
	}
	var entries []routing.Peer
	m.do(func() { entries = m.entries(names) })
	return s.send(m.topologyMessages(entries)...)
}

func (s *session) send(msgs ...Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := s.stream.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if s.ctx.Err() != nil { // its deadline is not ours to put off
		return context.Cause(s.ctx)
	}
	return s.conn.WriteMessages(msgs)
}

// sayGoodbye tells a meshd peer that we end on purpose, so that it does not wait
// for our path to die.
func (s *session) sayGoodbye(why error) error {
	if s.conn.Features.Can(AbilityLeave) && errors.Is(why, errStopping) && s.stream.SetWriteDeadline(time.Now().Add(leaveTimeout)) == nil {
		_ = s.conn.WriteMessage(TagLeave, nil) // the connection ends either way
	}
	return why
}

// addrPort is the address of a stream's end; the zero AddrPort where the carrier
// has none.
func addrPort(a net.Addr) netip.AddrPort {
	if a, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
