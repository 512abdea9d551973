package nat

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Filtering is measured without being asked too, so that `meshd why` and peers can be
// told: soon after the servers first told of a NAT, and after addresses have changed. It
// takes helpers, who may not be there yet, so it is tried some times and then left.

const (
	filterSoon  = 3 * time.Second // after the first rounds, whose ways are waited for
	filterAgain = 30 * time.Second
	filterTries = 4 // pauses double
)

// filterPlan is when filtering is measured next, for one address family. Guarded by
// Agent.mu.
type filterPlan struct {
	at    time.Time // zero: it is not
	tries int       // since the NAT changed
	anew  bool      // addresses have changed: what is known may not hold
}

// surveyed notes what servers have told.
func (f *filterPlan) surveyed(was, b Behaviour, now time.Time) {
	switch {
	case !slices.ContainsFunc(b.Answers, func(x Answer) bool { return x.Err == "" }):
		return
	case f.anew || !sameNAT(was, b):
		*f = filterPlan{at: now.Add(filterSoon)}
	}
}

// tried notes what a measurement has found.
func (f *filterPlan) tried(found Filtering, now time.Time) {
	f.tries++
	f.at = time.Time{}
	if found == UnknownFiltering && f.tries < filterTries {
		f.at = now.Add(filterAgain << (f.tries - 1))
	}
}

// sameNAT reports whether two surveys saw the same NAT: outside ports may have changed,
// addresses not.
func sameNAT(a, b Behaviour) bool {
	if a.At.IsZero() && a.Filtering == "" || len(a.Mapped) == 0 != (len(b.Mapped) == 0) {
		return false
	}
	for _, m := range b.Mapped {
		if !slices.ContainsFunc(a.Mapped, func(o netip.AddrPort) bool { return o.Addr() == m.Addr() }) {
			return false
		}
	}
	return true
}

// filterDue are the families to measure now, and when to come back.
func (a *Agent) filterDue(now time.Time) (families []int, next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next = now.Add(time.Minute)
	for i := range a.filter {
		switch f := &a.filter[i]; {
		case f.at.IsZero():
		case f.at.After(now):
			next = earliest(next, f.at)
		default:
			f.at = time.Time{} // until it is over
			families = append(families, i)
		}
	}
	return families, next
}

// filterOf measures the filtering of one family.
func (a *Agent) filterOf(ctx context.Context, family int) {
	a.mu.Lock()
	b := a.behaviour[family]
	a.mu.Unlock()
	i := slices.IndexFunc(b.Answers, func(x Answer) bool { return x.Err == "" })
	if i < 0 {
		return
	}
	found := a.filtering(ctx, b.Answers[i].Mapped, b.Answers)
	a.log.Debug("filtering measured", "addr", b.Answers[i].Mapped, "filtering", found)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.filter[family].at.IsZero() { // else the NAT has changed meanwhile
		a.filter[family].tried(found, time.Now())
		now := &a.behaviour[family]
		now.Filtering = now.Filtering.sharpened(found)
	}
	a.rouse()
}
