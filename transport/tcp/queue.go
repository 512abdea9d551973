package tcp

import (
	"time"

	"meshd/internal/encap"
)

// Bounds of a queue.
const (
	queueSize  = 1 << 20   // bytes
	maxRecords = 256       // with frames
	recordSize = 16 << 10  // bytes of a record, where a single item needs no more
	forSmall   = 128 << 10 // bytes that items which need more leave to the others
)

// record is one that is being filled, or waits in a queue.
type record struct {
	at, end       int // where it begins in the arena, and where its items end
	limit         int // what end may become
	frames, bytes int
	since         time.Time // when it was let go; zero: not yet
}

// after is where the next record may begin: behind the tag.
func (r *record) after() int { return r.end + encap.NativeTagLen }

// queue has the records that wait, behind each other in one piece of memory, in
// which they are sealed too, and begin anew at its start where the end is reached.
//
//	arena  [ r3 | r4, being filled ▒▒ free ▒▒ | r0 | r1 | r2 | ▒ ]
//	                                            ▲ head
//
// It has memory only while it is used.
type queue struct {
	arena   []byte
	records []record // a ring
	head, n int      // those that are complete
	filling bool     // the one behind them is being filled
}

// nth is the i-th record that waits; the n-th is the one being filled.
func (q *queue) nth(i int) *record { return &q.records[(q.head+i)%len(q.records)] }

// room gives the record that is being filled, if it has room for an item of that many
// bytes, or begins one; nil: the queue is full. It is sooner for large items: the
// super-frames of a transfer that fills it cost other flows no frame.
func (q *queue) room(need int) *record {
	if q.filling {
		if r := q.nth(q.n); r.end+need <= r.limit {
			return r
		}
		q.complete()
	}
	if q.arena == nil {
		q.arena, q.records = make([]byte, queueSize), make([]record, maxRecords)
	}
	size := max(recordSize, beforeItems+need+encap.NativeTagLen)
	spare := 0
	if size > recordSize {
		spare = forSmall
	}
	at, ok := q.place(size, spare)
	if !ok || q.n == len(q.records)-1 {
		return nil
	}
	r := q.nth(q.n)
	*r = record{at: at, end: at + beforeItems, limit: at + size - encap.NativeTagLen}
	q.filling = true
	return r
}

// place finds room in the arena for a record of size bytes that leaves spare bytes.
func (q *queue) place(size, spare int) (at int, ok bool) {
	if q.n == 0 {
		return 0, true
	}
	first, last := q.nth(0).at, q.nth(q.n-1).after()
	switch {
	case first >= last: // they go round the end
		return last, first-last >= size+spare
	case len(q.arena)-last >= size:
		return last, len(q.arena)-last+first >= size+spare
	}
	return 0, first >= size+spare
}

// complete queues what is being filled: nothing is added any more.
func (q *queue) complete() {
	if q.filling {
		q.ripen()
		q.filling = false
		q.n++
	}
}

// ripen lets what is being filled be taken.
func (q *queue) ripen() {
	if !q.filling {
		return
	}
	if r := q.nth(q.n); r.since.IsZero() {
		r.since = time.Now()
	}
}

// ripe reports whether what is being filled may be taken.
func (q *queue) ripe() bool { return q.filling && !q.nth(q.n).since.IsZero() }

// drop takes the first record away.
func (q *queue) drop() {
	q.head = (q.head + 1) % len(q.records)
	q.n--
}

// peek gives the records at the head that lie behind each other, of at most limit
// bytes together or else one. They stay until they are dropped.
func (q *queue) peek(rs []record, limit int) []record {
	rs = rs[:0]
	for len(rs) < q.n {
		r := *q.nth(len(rs))
		if len(rs) > 0 && (r.at != rs[len(rs)-1].after() || r.after()-rs[0].at > limit) {
			break
		}
		rs = append(rs, r)
	}
	return rs
}

// forget gives all records and the memory up, and says how many frames that were.
// Whoever has peeked may still use the memory.
func (q *queue) forget() (frames int) {
	q.complete()
	for i := range q.n {
		frames += q.nth(i).frames
	}
	*q = queue{}
	return frames
}

// empty reports whether nothing waits.
func (q *queue) empty() bool { return q.n == 0 && !q.filling }
