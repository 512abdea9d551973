package measure

import (
	"context"
	"errors"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

const (
	batchFrames = 64
	pace        = 250 * time.Microsecond // between batches, at least
	debt        = 5 * time.Millisecond   // that a sender which was held up makes up for, or a batch
)

// makePackets makes the data of a batch, of frames of size bytes.
func (r *run) makePackets(size int) {
	r.packets = make([]frame.Packet, batchFrames)
	m := message{kind: kindData, session: r.session}
	for i := range r.packets {
		r.packets[i] = newPacket(r.cfg.Self, r.peer, size)
		m.put(r.packets[i].Frame.Data)
	}
}

// sentRound is a round of data that was sent.
type sentRound struct {
	number uint32
	target float64 // frames per second, as asked for
	frames int
	took   time.Duration
	ended  time.Time
	asked  time.Time // for its report; zero: not yet
}

// rate is how many frames were sent per second.
func (s *sentRound) rate() float64 { return float64(s.frames) / s.took.Seconds() }

// sendRound sends frames at a rate for d. tick is called about every millisecond,
// or with each frame where they are fewer. A rate that is too high for this host is
// not made up for. It does not allocate per frame.
func (r *run) sendRound(ctx context.Context, rate float64, d time.Duration, tick func(now time.Time)) (sentRound, error) {
	r.round++
	s := sentRound{number: r.round, target: rate}
	sequence := uint32(0)
	each := time.Duration(float64(time.Second) / rate)
	begun := time.Now()
	owed := begun // frames are due from here on
	timer := time.NewTimer(0)
	defer timer.Stop()
	for now := begun; ; now = time.Now() {
		if s.took = now.Sub(begun); s.took >= d {
			s.ended = now
			return s, nil
		}
		tick(now)
		if most := max(debt, batchFrames*each); now.Sub(owed) > most {
			owed = now.Add(-most)
		}
		if n := int(now.Sub(owed).Seconds() * rate); n > 0 || s.frames == 0 {
			n = max(n, 1)
			owed = owed.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			r.sendData(n, &sequence)
			s.frames += n
		}
		next := min(max(pace, time.Until(owed.Add(each))), time.Millisecond)
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// sendData sends n frames. What is not taken on the way counts as lost; frames
// that are too big for the first path are made shorter.
func (r *run) sendData(n int, sequence *uint32) {
	for n > 0 {
		batch := r.packets[:min(n, len(r.packets))]
		for i := range batch {
			m := message{round: r.round, sequence: *sequence}
			m.number(batch[i].Frame.Data)
			*sequence++
		}
		n -= len(batch)
		_, err := r.cfg.Send(batch)
		if e, is := errors.AsType[*transport.TooBigError](err); is && e.MTU+frame.HeaderLen < len(batch[0].Frame.Data) {
			r.makePackets(e.MTU + frame.HeaderLen)
		}
	}
}
