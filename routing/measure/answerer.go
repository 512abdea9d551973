package measure

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
)

// Bounds of what others can make us keep and say.
const (
	maxSessions      = 4
	sessionGrace     = 5 * time.Second // that a session lives beyond what was offered
	keptRounds       = 8               // of one session
	answersPerSecond = 1000            // of one session
	answersBurst     = 200
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

// session is one measurement by another peer.
type session struct {
	peer    frame.PeerName
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
	for id, s := range a.sessions {
		// A peer that measures anew has given up what it did before.
		if now.After(s.until) || s.peer == src && id != o.session {
			delete(a.sessions, id)
		}
	}
	s := a.sessions[o.session]
	switch {
	case s == nil && len(a.sessions) >= maxSessions, s != nil && s.peer != src:
		return offer{verb: verbRefuse, session: o.session, argument: refuseBusy}, true
	case s == nil:
		asked := min(time.Duration(o.argument)*time.Millisecond, MaxTime)
		a.sessions[o.session] = &session{
			peer: src, until: now.Add(asked + sessionGrace),
			answers: rate.NewLimiter(answersPerSecond, answersBurst),
		}
	}
	return offer{verb: verbAccept, session: o.session}, true
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
