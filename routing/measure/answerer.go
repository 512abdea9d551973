package measure

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
)

// Bounds of what others can make us keep and say.
const (
	maxSessions      = 4               // that measure
	maxPings         = 64              // sessions that ping
	maxPingsOfPeer   = 16              // of these
	sessionGrace     = 5 * time.Second // that a session lives beyond what was offered
	keptRounds       = 8               // of one session
	answersPerSecond = 1000            // of one session
	answersBurst     = 200
	pongsPerSecond   = 10 // of one session that pings
	pongsBurst       = 20
	offersPerSecond  = 10 // answered, of all peers
	offersBurst      = 20
)

// answerer is the side that is measured: sessions that other peers opened. It
// starts nothing; sessions that are over are found out when somebody asks.
type answerer struct {
	mu       sync.Mutex // guards below; held for no call out
	sessions map[uint64]*session
	offers   *rate.Limiter
}

// session is one measurement by another peer, or one series of pings.
type session struct {
	peer    frame.PeerName
	purpose purpose
	until   time.Time
	answers *rate.Limiter
	rounds  [keptRounds]round // by number, modulo keptRounds
}

// round counts the data of one round.
type round struct {
	number      uint32
	first, last time.Time
	highest     uint32 // sequence number
	tally       tally
}

func newAnswerer() *answerer {
	return &answerer{sessions: map[uint64]*session{}, offers: rate.NewLimiter(offersPerSecond, offersBurst)}
}

// offered decides on an offer. No answer is due where ok is false.
func (a *answerer) offered(src frame.PeerName, o offer, now time.Time) (answer offer, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.offers.AllowN(now, 1) {
		return offer{}, false
	}
	a.tidy(src, o, now)
	s := a.sessions[o.session]
	if s != nil && s.peer != src || s == nil && !a.room(src, o.purpose) {
		return offer{verb: verbRefuse, session: o.session, argument: refuseBusy}, true
	}
	until := now.Add(min(time.Duration(o.argument)*time.Millisecond, MaxTime) + sessionGrace)
	switch {
	case s == nil:
		a.sessions[o.session] = newSession(src, o.purpose, until)
	case s.purpose == toPing:
		s.until = until // it goes on
	}
	return offer{verb: verbAccept, session: o.session, purpose: a.sessions[o.session].purpose}, true
}

func newSession(peer frame.PeerName, purpose purpose, until time.Time) *session {
	s := &session{peer: peer, purpose: purpose, until: until, answers: rate.NewLimiter(answersPerSecond, answersBurst)}
	if purpose == toPing {
		s.answers = rate.NewLimiter(pongsPerSecond, pongsBurst)
	}
	return s
}

// tidy ends the sessions that are over when src makes an offer. A peer that measures
// anew has given up what it measured before.
func (a *answerer) tidy(src frame.PeerName, o offer, now time.Time) {
	for id, s := range a.sessions {
		anew := o.purpose != toPing && s.purpose != toPing && s.peer == src && id != o.session
		if anew || now.After(s.until) {
			delete(a.sessions, id)
		}
	}
}

// room reports whether src may have one more session.
func (a *answerer) room(src frame.PeerName, purpose purpose) bool {
	all, own := 0, 0
	for _, s := range a.sessions {
		if (s.purpose == toPing) == (purpose == toPing) {
			all++
			if s.peer == src {
				own++
			}
		}
	}
	if purpose == toPing {
		return all < maxPings && own < maxPingsOfPeer
	}
	return all < maxSessions
}

// closed ends a session of src.
func (a *answerer) closed(src frame.PeerName, id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sessions[id]; s != nil && s.peer == src {
		delete(a.sessions, id)
	}
}

// take handles a frame that src sent, of size bytes. Where ok, answer is due. It
// does not allocate.
func (a *answerer) take(src frame.PeerName, m message, size int, now time.Time) (answer message, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[m.session]
	if s == nil || s.peer != src || now.After(s.until) {
		return answer, false
	}
	answer = message{session: m.session, round: m.round, sequence: m.sequence}
	if s.purpose == toPing && m.kind != kindEcho {
		return answer, false
	}
	switch m.kind {
	case kindData:
		s.rounds[m.round%keptRounds].count(m, size, now)
		return answer, false
	case kindEcho:
		answer.kind = kindEchoReply
	case kindRequest:
		answer.kind = kindReport
		if r := &s.rounds[m.round%keptRounds]; r.number == m.round {
			answer.tally = r.tally
		}
	default:
		return answer, false
	}
	return answer, s.answers.AllowN(now, 1)
}

// count takes one frame of data. A round makes place for a later one.
func (r *round) count(m message, size int, now time.Time) {
	if r.number > m.round {
		return
	}
	if r.number != m.round || r.tally.frames == 0 {
		*r = round{number: m.round, first: now}
	}
	if r.tally.frames > 0 && m.sequence < r.highest {
		r.tally.outOfOrder++
	}
	r.highest = max(r.highest, m.sequence)
	r.last = now
	r.tally.frames++
	r.tally.bytes += uint64(size)
	r.tally.span = uint64(r.last.Sub(r.first))
}
