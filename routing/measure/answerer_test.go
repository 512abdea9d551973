package measure

import (
	"testing"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func offered(t *testing.T, a *answerer, peer frame.PeerName, session uint64, now time.Time) verb {
	t.Helper()
	answer, ok := a.offered(peer, offer{verb: verbOffer, session: session, argument: 5000}, now)
	if !ok || answer.session != session {
		t.Fatalf("offer answered by %+v, %v", answer, ok)
	}
	return answer.verb
}

func TestSessionsAreBounded(t *testing.T) {
	a := newAnswerer()
	now := start
	for i := range uint64(maxSessions) {
		if v := offered(t, a, frame.PeerName(1+i), i, now); v != verbAccept {
			t.Fatalf("offer %d: %d", i, v)
		}
	}
	now = now.Add(time.Second)
	if v := offered(t, a, 99, 99, now); v != verbRefuse {
		t.Errorf("one more: %d, want refused", v)
	}
	if v := offered(t, a, 1, 0, now); v != verbAccept {
		t.Errorf("an offer again: %d, want accepted again", v)
	}
	if v := offered(t, a, 1, 50, now); v != verbAccept {
		t.Errorf("a new session of the same peer: %d, want accepted in place of the old one", v)
	}
	if v := offered(t, a, 98, 50, now); v != verbRefuse {
		t.Errorf("another peer's session: %d, want refused", v)
	}
	a.closed(98, 50)
	if len(a.sessions) != maxSessions {
		t.Error("another peer closed it")
	}
	a.closed(1, 50)
	if v := offered(t, a, 99, 99, now); v != verbAccept {
		t.Errorf("after one was closed: %d, want accepted", v)
	}
	now = now.Add(5*time.Second + sessionGrace)
	if v := offered(t, a, 97, 97, now); v != verbAccept || len(a.sessions) != 2 {
		t.Errorf("after the others' time: %d, %d sessions", v, len(a.sessions))
	}
	for i := range uint64(2 * offersBurst) {
		a.offered(96, offer{verb: verbOffer, session: 1000 + i}, now)
	}
	if _, ok := a.offered(95, offer{verb: verbOffer, session: 95}, now); ok {
		t.Error("offers are answered without limit")
	}
}

// Sessions that ping and sessions that measure leave each other room, and a peer may
// have several of the former.
func TestPingSessionsAreBounded(t *testing.T) {
	a := newAnswerer()
	a.offers = rate.NewLimiter(rate.Inf, 0)
	id := uint64(0)
	more := func(peer frame.PeerName, p purpose) verb {
		t.Helper()
		id++
		answer, ok := a.offered(peer, offer{verb: verbOffer, session: id, argument: 60_000, purpose: p}, start)
		if !ok || answer.session != id || answer.verb == verbAccept && answer.purpose != p {
			t.Fatalf("offer answered by %+v, %v", answer, ok)
		}
		return answer.verb
	}
	for i := range maxPings {
		if v := more(frame.PeerName(1+i/maxPingsOfPeer), toPing); v != verbAccept {
			t.Fatalf("ping %d: %d", i, v)
		}
	}
	if v := more(99, toPing); v != verbRefuse {
		t.Errorf("one more: %d, want refused", v)
	}
	for i := range maxSessions {
		if v := more(frame.PeerName(1+i), toMeasure); v != verbAccept {
			t.Errorf("measurement %d beside pings: %d", i, v)
		}
	}
	if len(a.sessions) != maxPings+maxSessions {
		t.Errorf("%d sessions", len(a.sessions))
	}
	a.closed(1, 1)
	if v := more(2, toPing); v != verbRefuse {
		t.Errorf("one more of a peer that has %d: %d, want refused", maxPingsOfPeer, v)
	}
	if v := more(99, toPing); v != verbAccept {
		t.Errorf("in place of one that was closed: %d, want accepted", v)
	}
}

func TestPingSessionIsProlonged(t *testing.T) {
	a := newAnswerer()
	o := offer{verb: verbOffer, session: 7, argument: 60_000, purpose: toPing}
	now := start
	for range 10 {
		if answer, ok := a.offered(alice, o, now); !ok || answer.verb != verbAccept {
			t.Fatalf("offer answered by %+v, %v", answer, ok)
		}
		now = now.Add(50 * time.Second)
		answered := 0
		for range 2 * pongsBurst {
			if _, ok := a.take(alice, message{kind: kindEcho, session: 7}, MinFrame, now); ok {
				answered++
			}
		}
		if answered != pongsBurst {
			t.Errorf("%d echoes of a moment were answered, want %d", answered, pongsBurst)
		}
		for _, k := range []kind{kindData, kindRequest} {
			if got, ok := a.take(alice, message{kind: k, session: 7}, MinFrame, now.Add(time.Second)); ok {
				t.Errorf("what no ping sends is answered by %+v", got)
			}
		}
	}
	if now = now.Add(time.Minute); len(a.sessions) != 1 || now.Before(a.sessions[7].until) {
		t.Errorf("the session lives until %v", a.sessions[7].until)
	}
}

func TestSessionTimeIsBounded(t *testing.T) {
	a := newAnswerer()
	a.offered(1, offer{verb: verbOffer, session: 1, argument: 1<<32 - 1}, start)
	if until := a.sessions[1].until; until.After(start.Add(MaxTime + sessionGrace)) {
		t.Errorf("the session lives until %v", until)
	}
}

func TestAnswers(t *testing.T) {
	a := newAnswerer()
	offered(t, a, alice, 7, start)
	now := start
	take := func(src frame.PeerName, m message) (message, bool) { return a.take(src, m, 100, now) }
	for i, sequence := range []uint32{0, 1, 3, 2, 4} {
		now = start.Add(time.Duration(i) * time.Millisecond)
		if _, ok := take(alice, message{kind: kindData, session: 7, round: 5, sequence: sequence}); ok {
			t.Error("data was answered")
		}
	}
	want := tally{frames: 5, bytes: 500, span: uint64(4 * time.Millisecond), outOfOrder: 1}
	got, ok := take(alice, message{kind: kindRequest, session: 7, round: 5, sequence: 77})
	if !ok || got != (message{kind: kindReport, session: 7, round: 5, sequence: 77, tally: want}) {
		t.Errorf("report = %+v, %v, want %+v", got, ok, want)
	}
	got, ok = take(alice, message{kind: kindRequest, session: 7, round: 4})
	if !ok || got.tally != (tally{}) {
		t.Errorf("report of a round that never was = %+v, %v", got, ok)
	}
	// A round eight later takes the place; what is late for the old one is dropped.
	take(alice, message{kind: kindData, session: 7, round: 5 + keptRounds})
	take(alice, message{kind: kindData, session: 7, round: 5})
	if got, _ = take(alice, message{kind: kindRequest, session: 7, round: 5 + keptRounds}); got.tally.frames != 1 {
		t.Errorf("report = %+v, want one frame", got)
	}

	for _, tt := range []struct {
		name string
		src  frame.PeerName
		m    message
	}{
		{"unknown session", alice, message{kind: kindEcho, session: 8}},
		{"another's session", bob, message{kind: kindEcho, session: 7}},
		{"what only answers are", alice, message{kind: kindReport, session: 7}},
	} {
		if got, ok := take(tt.src, tt.m); ok {
			t.Errorf("%s is answered by %+v", tt.name, got)
		}
	}
	now = now.Add(time.Minute)
	if _, ok := take(alice, message{kind: kindEcho, session: 7}); ok {
		t.Error("a session that is over is answered")
	}
}

func TestAnswersAreLimited(t *testing.T) {
	a := newAnswerer()
	offered(t, a, alice, 7, start)
	answered := 0
	for range 10 * answersBurst {
		if _, ok := a.take(alice, message{kind: kindEcho, session: 7}, MinFrame, start); ok {
			answered++
		}
	}
	if answered != answersBurst {
		t.Errorf("%d echoes of a moment were answered, want %d", answered, answersBurst)
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	m := New(Config{Self: bob})
	m.answerer.offered(alice, offer{verb: verbOffer, session: 7, argument: 60_000}, time.Now())
	p := newPacket(alice, bob, 1400)
	(&message{kind: kindData, session: 7, round: 1}).put(p.Frame.Data)
	if n := testing.AllocsPerRun(1000, func() {
		if !m.Take(p) {
			t.Fatal("not taken")
		}
	}); n != 0 {
		t.Errorf("%v allocations per frame, want none", n)
	}
	if m.answerer.sessions[7].rounds[1].tally.frames == 0 {
		t.Error("nothing was counted")
	}
}

// Frames of others with our EtherType are theirs; ours never reach a bridge.
func TestTakeTellsWhatIsOurs(t *testing.T) {
	m := New(Config{Self: bob})
	ours := newPacket(alice, bob, MinFrame)
	(&message{kind: kindEcho, session: 99}).put(ours.Frame.Data)
	newer := newPacket(alice, bob, MinFrame)
	(&message{kind: kindEcho}).put(newer.Frame.Data)
	newer.Frame.Data[offVersion]++
	theirs := newPacket(alice, bob, MinFrame)
	theirs.Frame.Data[12], theirs.Frame.Data[13] = 0x88, 0xb5
	if !m.Take(ours) || !m.Take(newer) || m.Take(theirs) || m.Take(frame.Packet{}) {
		t.Error("Take does not tell our frames from others")
	}
}
