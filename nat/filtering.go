package nat

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"sync"
	"time"

	"meshd/internal/frame"
)

// Filtering is measured with the help of peers: over signalling they are asked to send
// a check to our outside address, from a socket that we have never sent to. One is a
// neighbour, to whose address we have sent; the other one, where there is one, is a peer
// that we have not sent anything. A neighbour sends only to the address at which it sees
// us; who does not see us sends to an address that does not answer a handful at most, as
// in rounds (budget.go).
//
// Where peers cannot tell, a STUN server may (otheraddress.go).

// filterTime is how long checks of helpers are waited for.
const filterTime = 1500 * time.Millisecond

// probeTimes is how often a helper sends its check.
const probeTimes = 3

// filtering measures who may send to an outside address of ours. answers are those of
// the servers that told of it.
func (a *Agent) filtering(ctx context.Context, at netip.AddrPort, answers []Answer) Filtering {
	f := a.filteringByPeers(ctx, at)
	i := slices.IndexFunc(answers, func(x Answer) bool { return x.Err == "" && x.Other.IsValid() })
	if f != UnknownFiltering && f != OpenOrAddressFiltering || i < 0 {
		return f
	}
	if by := a.filteringBy(ctx, answers[i].Addr); by != UnknownFiltering {
		return by
	}
	return f
}

// sharpened is what is known of filtering after another look at the same NAT. Helpers
// that are asked too often say nothing, and those that have met us meanwhile tell less.
func (f Filtering) sharpened(now Filtering) Filtering {
	known := f != "" && f != UnknownFiltering
	switch {
	case now == UnknownFiltering && known:
		return f
	case now == OpenOrAddressFiltering && (f == OpenFiltering || f == AddressFiltering):
		return f
	}
	return now
}

// filteringByPeers is filtering with the help of peers.
func (a *Agent) filteringByPeers(ctx context.Context, at netip.AddrPort) Filtering {
	near, far := a.helpers()
	var tested, came [2]bool
	var wg sync.WaitGroup
	for i, name := range []frame.PeerName{near, far} {
		if name != 0 {
			wg.Go(func() { tested[i], came[i] = a.probed(ctx, name, at) })
		}
	}
	wg.Wait()
	switch {
	case came[1]:
		return OpenFiltering
	case came[0] && tested[1]:
		return AddressFiltering
	case came[0]:
		return OpenOrAddressFiltering
	case tested[0]:
		return AddressPortFiltering
	}
	return UnknownFiltering
}

// helpers are a neighbour and a peer that we have not sent anything; 0: there is none.
func (a *Agent) helpers() (near, far frame.PeerName) {
	a.mu.Lock()
	var all []Peer
	for _, p := range a.peers {
		all = append(all, p.Peer)
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(x, y Peer) int { return ordinal(y.Dialled) - ordinal(x.Dialled) })
	for _, p := range all {
		if _, known := a.cfg.Find(p.Name); !known {
			continue
		}
		switch {
		case p.Session && near == 0:
			near = p.Name
		case !p.Session && far == 0 && !a.Status(p.Name).tried():
			far = p.Name
		}
	}
	return near, far
}

// tried reports whether there were rounds, in which we sent to its addresses.
func (s Status) tried() bool { return len(s.Tries) > 0 || s.Active }

// probed asks a peer to send checks to us. tested: it says that it did.
func (a *Agent) probed(ctx context.Context, by frame.PeerName, at netip.AddrPort) (tested, came bool) {
	ctx, cancel := context.WithTimeout(ctx, filterTime)
	defer cancel()
	known, ok := a.cfg.Find(by)
	if !ok {
		return false, false
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	round := hex.EncodeToString(id[:])
	c := a.newCheck(round, roundKey(known.Secret, round), false, nil)
	if a.register(c) != nil {
		return false, false
	}
	defer a.unregister(c)
	b, err := json.Marshal(signal{Verb: verbProbe, Round: round, Candidates: []Candidate{{Reflexive, at}}})
	if err != nil {
		return false, false
	}
	reply, _, err := a.cfg.Request(ctx, by, b)
	if err != nil {
		return false, false
	}
	if s, err := parseSignal(reply); err != nil || s.Verb != verbProbe {
		return false, false
	}
	for {
		if len(c.addresses()) > 0 {
			return true, true
		}
		select {
		case <-c.news:
		case <-ctx.Done():
			return true, false
		}
	}
}

// probe sends the checks that a peer asks for, and says so.
func (a *Agent) probe(from frame.PeerName, s signal, reply func([]byte)) {
	known, ok := a.cfg.Find(from)
	if !ok || len(s.Candidates) != 1 || a.cfg.Probe == nil {
		a.refused.Add(1)
		return
	}
	to := s.Candidates[0].Addr
	a.mu.Lock()
	p := a.peers[from]
	there := p == nil || !p.Session || p.Data.Addr() == to.Addr() || p.Addr.Addr() == to.Addr()
	a.mu.Unlock()
	if !there || Usable(to) != "" || a.refuse(to.Addr()) != "" {
		a.refused.Add(1)
		return
	}
	key := roundKey(known.Secret, s.Round)
	for range probeTimes {
		if !a.budget.allow(time.Now(), to) {
			a.unspent.Add(1)
			return
		}
		b, err := checkRequest(newTransactionID(), s.Round, key, false)
		if err != nil {
			return
		}
		if err := a.cfg.Probe(to, b); err != nil {
			a.log.Debug("probe a peer's filtering", "peer", from, "err", err)
			return
		}
	}
	if b, err := json.Marshal(signal{Verb: verbProbe, Round: s.Round}); err == nil {
		reply(b)
	}
}
