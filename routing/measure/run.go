package measure

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"meshd/internal/frame"
)

// Times of a measurement.
const (
	overtime     = 4 * time.Second // beyond Options.Time
	offerAgain   = 500 * time.Millisecond
	offers       = 4
	idleShare    = 10 // of the time, for echoes without load
	idleInterval = 20 * time.Millisecond
	idleEchoes   = 25
	loadInterval = 10 * time.Millisecond // between echoes under load
	loadFrames   = 10                    // of data for each of them, at least
	lostAfter    = time.Second           // an echo
	askAgain     = 250 * time.Millisecond
	asks         = 3
	rampShare    = 2 // of the time, at most
	roundShare   = 40
	shortRound   = 50 * time.Millisecond
	longRound    = 250 * time.Millisecond
	roundFrames  = 20 // at least in one round, unless that took longer than maxRound
	manyFrames   = 100
	maxRound     = time.Second
)

// What makes a round bad.
const (
	maxLoss     = 0.01
	lateShare   = 1.15 // of the time in which it was sent
	lateSlack   = 5 * time.Millisecond
	leastShare  = 0.5 // of the rate that was to be held
	senderShare = 0.9 // of the rate that was asked for, which the sender reached
	holdShare   = 0.9 // of the highest rate, and of a rate that lost too much
)

// run is one measurement. The goroutine of Meter.Measure owns it, but for what is
// made for others to call.
type run struct {
	cfg      Config
	peer     frame.PeerName
	session  uint64
	opt      Options
	decision chan offer   // capacity 1, sent by Meter.Told; full: one is there
	reports  chan message // capacity keptRounds, sent by answered; full: asked again
	echoes   *echoes

	packets []frame.Packet // data of one batch
	probe   []frame.Packet // one short frame
	round   uint32         // that is being sent
	asked   uint32         // requests so far
	rtt     time.Duration  // idle, median
	highest Rate
	limit   Limit
}

func newRun(cfg Config, peer frame.PeerName, o Options) *run {
	r := &run{
		cfg: cfg, peer: peer, session: rand.Uint64(), opt: o,
		decision: make(chan offer, 1), reports: make(chan message, keptRounds), echoes: newEchoes(),
		probe: []frame.Packet{newPacket(cfg.Self, peer, MinFrame)},
	}
	r.makePackets(o.MTU + frame.HeaderLen)
	return r
}

// answered takes an echo reply or a report. Called by Meter.Take, concurrently.
func (r *run) answered(m message, now time.Time) {
	if m.kind == kindEchoReply {
		r.echoes.replied(m.sequence, now)
		return
	}
	select {
	case r.reports <- m:
	default:
	}
}

func (r *run) measure(ctx context.Context) (Result, error) {
	if err := r.open(ctx); err != nil {
		return Result{}, err
	}
	defer func() { _ = r.tell(offer{verb: verbClose, session: r.session}) }() // else it ends by time
	begun := time.Now()
	idle, err := r.idle(ctx)
	if err != nil {
		return Result{}, err
	}
	r.rtt = idle.P50
	best, err := r.climb(ctx, begun.Add(r.opt.Time/rampShare))
	if err != nil {
		return Result{}, err
	}
	held, err := r.hold(ctx, best*holdShare, begun.Add(r.opt.Time))
	if err != nil {
		return Result{}, err
	}
	size := len(r.packets[0].Frame.Data)
	if held.Loss() <= maxLoss {
		r.highest = r.highest.or(held.Rate().Frames, size)
	}
	return Result{
		FrameBytes: size, Highest: r.highest, Limit: r.limit,
		Held: held, Idle: idle, Loaded: r.echoes.rtt(), Took: time.Since(begun),
	}, nil
}

// open opens the session.
func (r *run) open(ctx context.Context) error {
	for range offers {
		if err := r.tell(offer{verb: verbOffer, session: r.session, argument: uint32(r.opt.Time.Milliseconds())}); err != nil {
			return err
		}
		select {
		case o := <-r.decision:
			if o.verb == verbRefuse {
				return ErrPeerBusy
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(offerAgain):
		}
	}
	return ErrSilent
}

// idle measures the round-trip time while we send nothing else.
func (r *run) idle(ctx context.Context) (RTT, error) {
	r.echoes.begin()
	for end, n := time.Now().Add(r.opt.Time/idleShare), 0; n < idleEchoes && time.Now().Before(end); n++ {
		r.echo()
		if err := wait(ctx, idleInterval); err != nil {
			return RTT{}, err
		}
	}
	for end := time.Now().Add(lostAfter); ; {
		rtt := r.echoes.rtt()
		left := time.Until(end)
		if rtt.Received > 0 {
			// What takes that much longer than others is lost.
			left = min(left, 4*rtt.P99+idleInterval)
		}
		switch {
		case rtt.Received == rtt.Sent:
			return rtt, nil
		case left <= 0 && rtt.Received == 0:
			return rtt, ErrNoFrames
		case left <= 0:
			return rtt, nil
		}
		select {
		case <-r.echoes.received:
		case <-time.After(left):
			if rtt.Received > 0 {
				return rtt, nil
			}
		case <-ctx.Done():
			return rtt, context.Cause(ctx)
		}
	}
}

func (r *run) echo() {
	m := message{kind: kindEcho, session: r.session, sequence: r.echoes.send(time.Now())}
	r.ask(m)
}

// ask sends one short frame.
func (r *run) ask(m message) {
	m.put(r.probe[0].Frame.Data)
	_, _ = r.cfg.Send(r.probe) // what is not answered was lost
}

// climb finds the highest rate that the way carries, in frames per second.
func (r *run) climb(ctx context.Context, end time.Time) (float64, error) {
	search := newRamp()
	for !search.done && time.Now().Before(end) {
		sent, err := r.sendRound(ctx, search.rate, r.roundTime(search.rate), func(time.Time) {})
		if err != nil {
			return 0, err
		}
		got, err := r.await(ctx, sent)
		if err != nil {
			return 0, err
		}
		if got.good() {
			r.note(got)
			search.passed(sent.rate())
		} else {
			search.failed(got.received())
		}
	}
	switch {
	case search.bad > 0:
		r.limit = LimitPath
	case search.done:
		r.limit = LimitSender
	}
	if search.good == 0 {
		return max(search.bad, lowRate), nil // to tell how much is lost
	}
	return search.good, nil
}

// roundTime is how long a round at that rate takes.
func (r *run) roundTime(rate float64) time.Duration {
	d := min(max(r.opt.Time/roundShare, shortRound), longRound)
	return min(max(d, r.rtt, time.Duration(roundFrames/rate*float64(time.Second))), maxRound)
}

// await asks for the report of a round that was sent. Without one all was lost.
func (r *run) await(ctx context.Context, s sentRound) (outcome, error) {
	// The request comes behind the data, but for what overtakes it.
	if err := wait(ctx, lateSlack); err != nil {
		return outcome{}, err
	}
	for range asks {
		r.request(s.number)
		for timeout := time.After(max(askAgain, 3*r.rtt)); timeout != nil; {
			select {
			case m := <-r.reports:
				if m.round == s.number {
					return outcome{s, m.tally}, nil
				}
			case <-timeout:
				timeout = nil
			case <-ctx.Done():
				return outcome{}, context.Cause(ctx)
			}
		}
	}
	return outcome{sentRound: s}, nil
}

func (r *run) request(round uint32) {
	r.asked++
	r.ask(message{kind: kindRequest, session: r.session, round: round, sequence: r.asked})
}

// hold sends at one rate until end, and at less where that loses too much. Reports
// of a round come while the next ones are sent.
func (r *run) hold(ctx context.Context, rate float64, end time.Time) (Held, error) {
	var held Held
	least := rate * leastShare         // where frames are lost at any rate
	waiting := map[uint32]*sentRound{} // for their reports
	take := func(m message) {
		s := waiting[m.round]
		if s == nil {
			return
		}
		delete(waiting, m.round)
		got := outcome{*s, m.tally}
		held.add(got)
		if got.good() {
			r.note(got)
		} else {
			rate = max(min(rate, s.target*holdShare), least)
		}
	}
	r.echoes.begin()
	echoAt := time.Now()
	tick := func(now time.Time) {
		if !now.Before(echoAt) {
			r.echo()
			echoAt = now.Add(max(loadInterval, time.Duration(loadFrames/rate*float64(time.Second))))
		}
		r.requestDue(waiting, now)
	}
	for first := true; first || time.Now().Before(end); first = false {
		s, err := r.sendRound(ctx, rate, min(r.roundTime(rate), max(time.Until(end), shortRound)), tick)
		if err != nil {
			return held, err
		}
		r.drain(take)
		take(message{round: s.number - keptRounds/2}) // who answers forgets it soon
		waiting[s.number] = &s
	}
	err := r.finish(ctx, waiting, take)
	return held, err
}

// finish waits for the reports that are missing, but not for long: what nobody
// reports was lost.
func (r *run) finish(ctx context.Context, waiting map[uint32]*sentRound, take func(message)) error {
	tick := time.NewTicker(lateSlack)
	defer tick.Stop()
	for end := time.Now().Add(r.rtt + 2*max(askAgain, 3*r.rtt)); len(waiting) > 0 && time.Now().Before(end); {
		select {
		case now := <-tick.C:
			r.requestDue(waiting, now)
		case m := <-r.reports:
			take(m)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(waiting)) {
		take(message{round: number})
	}
	return nil
}

// requestDue asks for the reports of the rounds that ended a moment ago, and again for those that were not answered.
func (r *run) requestDue(waiting map[uint32]*sentRound, now time.Time) {
	for number, s := range waiting {
		if now.Sub(s.ended) > lateSlack && now.Sub(s.asked) > max(askAgain, 3*r.rtt) {
			s.asked = now
			r.request(number)
		}
	}
}

// drain takes the reports that are there.
func (r *run) drain(take func(message)) {
	for {
		select {
		case m := <-r.reports:
			take(m)
		default:
			return
		}
	}
}

// note keeps the highest rate at which frames of a good round arrived. Of few frames
// the share that was lost says nothing.
func (r *run) note(o outcome) {
	if o.frames >= manyFrames {
		r.highest = r.highest.or(o.received(), len(r.packets[0].Frame.Data))
	}
}

// wait waits for d.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
