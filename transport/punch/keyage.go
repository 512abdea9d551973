package punch

import (
	"time"

	"meshd/transport"
)

// A key is changed after it has sealed so many datagrams (RFC 9001, section 6.6)
// or was in use for so long, whichever comes first. What opened datagrams of the
// key before is forgotten after forgetAfter.
const (
	rekeyUsed   = 1 << 23
	rekeyAfter  = 2 * time.Minute
	forgetAfter = 3 * time.Second
)

// rekeying is when keys change.
type rekeying struct {
	after time.Duration
	used  uint64
}

// keyAge follows the keys of both directions. The path's mutex guards it.
type keyAge struct {
	began    time.Time // when the sealing key came into use
	proven   bool      // the neighbour has opened a datagram under it
	sealing  uint64    // epoch of the sealing key
	opening  uint64    // epoch of the opening key
	forgetAt time.Time // when the opening key before it is given up; zero: it was
}

func (k *keyAge) begin(now time.Time) { k.began = now }

// changes is how often a key was changed, both directions together.
func (k *keyAge) changes() uint64 { return k.sealing + k.opening }

// replied notes that the neighbour has opened a datagram that was sealed then.
func (k *keyAge) replied(sent time.Time) {
	if sent.After(k.began) {
		k.proven = true
	}
}

// due reports whether to change the sealing key. Before the neighbour has the
// one in use it could not follow.
func (k *keyAge) due(now time.Time, used uint64, r rekeying) bool {
	return k.proven && (used >= r.used || used > 0 && now.Sub(k.began) >= r.after)
}

// tendLocked changes the sealing key where it is due, and gives up an old opening
// key and fragments that have waited for too long.
func (p *path) tendLocked(now time.Time) {
	if p.readyAt.IsZero() {
		return
	}
	k := &p.keys
	if k.due(now, p.tx.keyUsed(), p.t.rekey) {
		if err := p.tx.advance(); err != nil {
			p.log.Error("no new key for native datagrams", "err", err)
		} else {
			k.sealing++
		}
		k.began, k.proven = now, false
	}
	epoch, lost := p.rx.tend(now)
	if lost > 0 {
		p.session.Counters.Rx.Drop(transport.DropQueueFull, lost)
	}
	switch {
	case epoch != k.opening:
		k.opening, k.forgetAt = epoch, now.Add(forgetAfter)
	case !k.forgetAt.IsZero() && !now.Before(k.forgetAt):
		p.rx.forget()
		k.forgetAt = time.Time{}
	}
}
