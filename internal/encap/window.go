package encap

// A replay window covers 2^20 sequence numbers. It is held as pages, so that a
// neighbour costs memory only where its datagrams are.
const (
	windowBits  = 20
	pageBits    = 15 // 4 KiB
	windowPages = 1 << (windowBits - pageBits)
)

// maxSparePages is how many pages a Window keeps for later: about as many as
// datagrams that overtake each other touch.
const maxSparePages = 2

// Window tells sequence numbers seen for the first time from replayed and very
// old ones (weave protocol, section 6.4): it remembers the numbers of the
// highest span of 2^20 that it has seen and of the span before. The zero value
// is ready. It must not be used concurrently.
//
// A Window is about 700 bytes. Each page of 4 KiB remembers 32768 numbers, and
// is given up once it has them all; so a path that loses nothing needs one or
// two pages, and the worst is 256 KiB.
type Window struct {
	top       uint64 // the highest span, sequence number >> 20
	cur, prev span
	spare     [maxSparePages]*page
}

// page has a bit for each of its sequence numbers.
type page [1 << (pageBits - 6)]uint64

// full stands for every page whose numbers were all seen. It is never written.
var full page

// span is the set of numbers seen of one span.
type span struct {
	pages [windowPages]*page
	seen  [windowPages]uint16 // numbers in each page, if it is not full
}

// Accept reports whether seq, of 63 bits, is neither replayed nor too old, and
// remembers it. Call it for authenticated datagrams only.
func (w *Window) Accept(seq uint64) bool {
	switch top := seq >> windowBits; {
	case top > w.top:
		w.advance(top)
		return w.add(&w.cur, seq)
	case top == w.top:
		return w.add(&w.cur, seq)
	case top+1 == w.top:
		return w.add(&w.prev, seq)
	}
	return false
}

// advance makes top the highest span.
func (w *Window) advance(top uint64) {
	w.clear(&w.prev)
	if top == w.top+1 {
		w.prev, w.cur = w.cur, span{}
	} else {
		w.clear(&w.cur)
	}
	w.top = top
}

// add puts seq into s and reports whether it was new there.
func (w *Window) add(s *span, seq uint64) bool {
	i := seq >> pageBits % windowPages
	p := s.pages[i]
	if p == &full {
		return false
	}
	if p == nil {
		p = w.take()
		s.pages[i] = p
	}
	word, bit := &p[seq%(1<<pageBits)/64], uint64(1)<<(seq%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	s.seen[i]++
	if s.seen[i] == 1<<pageBits {
		w.give(p)
		s.pages[i] = &full
	}
	return true
}

// clear empties s.
func (w *Window) clear(s *span) {
	for _, p := range s.pages {
		w.give(p)
	}
	*s = span{}
}

// take returns an empty page.
func (w *Window) take() *page {
	for i, p := range w.spare {
		if p != nil {
			w.spare[i] = nil
			*p = page{}
			return p
		}
	}
	return new(page)
}

// give keeps p for take, or leaves it to the garbage collector.
func (w *Window) give(p *page) {
	if p == nil || p == &full {
		return
	}
	for i := range w.spare {
		if w.spare[i] == nil {
			w.spare[i] = p
			return
		}
	}
}
