package udp

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxRefusals = 16
	refusedFor  = time.Minute
)

// refusals remembers to where the kernel did not send runs, though it did send
// their datagrams one by one: because of a transformation (IPsec), or, without
// DF, because they have to be fragmented. The zero value is ready; it may be used
// concurrently.
type refusals struct {
	n       atomic.Int32 // entries in use, so that nobody locks for none
	mu      sync.Mutex   // guards entries
	entries [maxRefusals]refusal
}

// refusal is of datagrams of size bytes and more.
type refusal struct {
	to    netip.Addr
	df    bool
	size  int
	until time.Time
}

// has reports whether runs of datagrams of size bytes are refused.
func (r *refusals) has(to netip.Addr, df bool, size int) bool {
	return r.n.Load() > 0 && r.hasAt(time.Now(), to, df, size)
}

func (r *refusals) hasAt(now time.Time, to netip.Addr, df bool, size int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.used() {
		e := &r.entries[i]
		if e.to == to && e.df == df && size >= e.size && now.Before(e.until) {
			return true
		}
	}
	return false
}

// add remembers a refusal, in place of the oldest if there are too many.
func (r *refusals) add(now time.Time, to netip.Addr, df bool, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := &r.entries[0]
	for i := range r.used() {
		e := &r.entries[i]
		if e.to == to && e.df == df {
			if now.Before(e.until) {
				size = min(size, e.size)
			}
			*e = refusal{to, df, size, now.Add(refusedFor)}
			return
		}
		if e.until.Before(oldest.until) {
			oldest = e
		}
	}
	if n := r.used(); n < maxRefusals {
		oldest = &r.entries[n]
		r.n.Add(1)
	}
	*oldest = refusal{to, df, size, now.Add(refusedFor)}
}

// forget drops all: the routes may have changed.
func (r *refusals) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n.Store(0)
}

func (r *refusals) used() int { return int(r.n.Load()) }
