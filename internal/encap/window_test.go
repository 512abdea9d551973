package encap

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"testing"
)

// TestWindowVector compares with what a stock router accepted.
func TestWindowVector(t *testing.T) {
	b, err := os.ReadFile("testdata/sleeve-replay-window.json")
	if err != nil {
		t.Fatal(err)
	}
	var vector struct {
		Sequence []struct {
			Accepted, DF bool
			Seq          uint64
		}
	}
	if err := json.Unmarshal(b, &vector); err != nil {
		t.Fatal(err)
	}
	if len(vector.Sequence) < 20 {
		t.Fatalf("testdata has %d steps", len(vector.Sequence))
	}
	var plain, df Window
	for i, s := range vector.Sequence {
		w := &plain
		if s.DF {
			w = &df
		}
		if got := w.Accept(s.Seq); got != s.Accepted {
			t.Errorf("step %d: Accept(%d) = %v, want %v", i, s.Seq, got, s.Accepted)
		}
	}
}

// plainWindow is section 6.4 word for word, with maps.
type plainWindow struct {
	top  uint64
	seen map[uint64]map[uint64]bool
}

func (w *plainWindow) accept(seq uint64) bool {
	span, o := seq>>20, seq&0xfffff
	if span > w.top {
		kept := w.seen[w.top]
		w.seen = map[uint64]map[uint64]bool{}
		if span == w.top+1 {
			w.seen[w.top] = kept
		}
		w.top = span
	}
	if span+1 < w.top {
		return false
	}
	if w.seen == nil {
		w.seen = map[uint64]map[uint64]bool{}
	}
	if w.seen[span] == nil {
		w.seen[span] = map[uint64]bool{}
	}
	if w.seen[span][o] {
		return false
	}
	w.seen[span][o] = true
	return true
}

// TestWindowRandom compares with plainWindow on numbers that mostly stay near
// the highest one, often at the edges of pages and spans.
func TestWindowRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var w Window
		var want plainWindow
		at := rng.Uint64() >> (2 + rng.UintN(60))
		for i := range 20000 {
			switch rng.UintN(20) {
			case 0:
				at += 1 << rng.UintN(22)
			case 1:
				at = at>>pageBits<<pageBits + rng.Uint64N(4)
			case 2:
				at -= min(at, 1<<rng.UintN(21))
			case 3:
				at = at>>windowBits<<windowBits + rng.Uint64N(4)
			default:
				at += rng.Uint64N(3)
			}
			seq := at - min(at, rng.Uint64N(8))
			if got, want := w.Accept(seq), want.accept(seq); got != want {
				t.Fatalf("number %d: Accept(%d) = %v, want %v", i, seq, got, want)
			}
		}
	}
}

func (w *Window) pages() (n int) {
	for _, s := range []*span{&w.cur, &w.prev} {
		for _, p := range s.pages {
			if p != nil && p != &full {
				n++
			}
		}
	}
	for _, p := range w.spare {
		if p != nil {
			n++
		}
	}
	return n
}

// TestWindowMemory: a path that loses nothing needs a constant number of pages,
// and full pages go on refusing.
func TestWindowMemory(t *testing.T) {
	var w Window
	const n = 2<<windowBits + 6
	for i := range uint64(n) {
		seq := i ^ 1 // each pair in the wrong order
		if !w.Accept(seq) {
			t.Fatalf("Accept(%d) = false", seq)
		}
		if got := w.pages(); got > 3 {
			t.Fatalf("at %d there are %d pages", seq, got)
		}
	}
	for _, seq := range []uint64{n - 1, n - 1000, 1 << windowBits, 0} {
		if w.Accept(seq) {
			t.Errorf("Accept(%d) = true the second time", seq)
		}
	}
}

// TestWindowMemoryWorst: one number in each page, over and over.
func TestWindowMemoryWorst(t *testing.T) {
	var w Window
	for seq := uint64(0); seq < 10<<windowBits; seq += 1 << pageBits {
		w.Accept(seq)
	}
	if got, limit := w.pages(), 2*windowPages+maxSparePages; got > limit {
		t.Errorf("there are %d pages, want at most %d", got, limit)
	}
}

func TestWindowHighest(t *testing.T) {
	var w Window
	const last = 1<<63 - 1
	for i, want := range []bool{true, false} {
		if got := w.Accept(last); got != want {
			t.Errorf("%d: Accept(2^63-1) = %v, want %v", i, got, want)
		}
	}
}

func BenchmarkWindow(b *testing.B) {
	var w Window
	seq := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		if !w.Accept(seq) {
			b.Fatal("refused")
		}
		seq++
	}
}
