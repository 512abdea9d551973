package tcp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"meshd/internal/encap"
)

// Whatever is put in and taken out, and in which order: records keep their bytes,
// come in order and lie apart, within the arena.
func TestQueueKeepsRecords(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var q queue
	var want [][]byte // items of the records, in order
	var peeked []record
	number := uint64(0)
	full, wrapped := 0, 0
	for i := range 100_000 {
		drain := 3 // one step in as many takes records
		if i/500%2 == 0 {
			drain = 20
		}
		switch rng.IntN(drain) {
		default:
			need := 8 + rng.IntN(2000)
			if rng.IntN(4) == 0 {
				need = 8 + rng.IntN(65000)
			}
			was, filled := q.n, q.filling
			r := q.room(need)
			if r == nil {
				full++
				continue
			}
			if q.n > was || !filled {
				want = append(want, nil)
				if r.at == 0 && q.n > 0 {
					wrapped++
				}
			}
			number++
			it := make([]byte, need)
			binary.BigEndian.PutUint64(it, number)
			it[need-1] ^= byte(number)
			r.end += copy(q.arena[r.end:r.limit], it)
			want[len(want)-1] = append(want[len(want)-1], it...)
		case 0:
			q.complete()
			peeked = q.peek(peeked, takeAtOnce)
			for i, r := range peeked {
				if i > 0 && (r.at != peeked[i-1].after() || r.after()-peeked[0].at > takeAtOnce) {
					t.Fatalf("record %d at %d does not follow that before, which ends at %d, or is too much", i, r.at, peeked[i-1].after())
				}
				if got := q.arena[r.at+beforeItems : r.end]; !bytes.Equal(got, want[i]) {
					t.Fatalf("a record of %d bytes has changed, or has %d", len(want[i]), len(got))
				}
				clear(q.arena[r.end:r.after()]) // the tag's place
			}
			for range peeked {
				q.drop()
			}
			want = want[len(peeked):]
			if (q.n == 0) != (len(want) == 0) {
				t.Fatalf("%d records wait, want %d", q.n, len(want))
			}
		}
	}
	if full == 0 || wrapped == 0 {
		t.Errorf("the queue was full %d times and began anew %d times: what is this test for?", full, wrapped)
	}
}

// A queue takes a fixed amount, of large items somewhat less.
func TestQueueIsBounded(t *testing.T) {
	var q queue
	large := 0
	for q.room(60000) != nil {
		q.nth(q.n).end += 60000
		large++
	}
	small := 0
	for {
		r := q.room(1400)
		if r == nil {
			break
		}
		r.end += 1400
		r.frames++
		small++
	}
	if want := (queueSize - forSmall) / 60100; large != want {
		t.Errorf("%d large items, want %d", large, want)
	}
	if least := (forSmall - recordSize) / 1500; small < least || small > queueSize/1400-large*40 {
		t.Errorf("%d small items, want at least %d", small, least)
	}
	if got := q.forget(); got != small || q.arena != nil || !q.empty() {
		t.Errorf("%d frames are forgotten, want %d, and no memory kept", got, small)
	}
}

// Many records of next to nothing are bounded by number.
func TestQueueOfSmallRecords(t *testing.T) {
	var q queue
	n := 0
	for ; ; n++ {
		r := q.room(20)
		if r == nil {
			break
		}
		r.end += 20
		q.complete()
	}
	if n != maxRecords-1 {
		t.Errorf("%d records, want %d", n, maxRecords-1)
	}
	if max := n * (beforeItems + 20 + encap.NativeTagLen); q.nth(q.n-1).after() > max {
		t.Errorf("they take %d bytes, want %d", q.nth(q.n-1).after(), max)
	}
}
