package nat

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxOffer is how long an offer may be in bytes.
const maxOffer = 4096

// maxObserved is how many addresses that neighbours tell are offered.
const maxObserved = 4

// surveyAge is how old what servers said may be for an offer.
const surveyAge = 10 * time.Second

// verb is what a signal is for.
type verb string

const (
	verbOffer verb = "offer"
	verbGo    verb = "go"
	verbWant  verb = "want"
	verbProbe verb = "probe" // see filtering.go
)

// signal is one message of a round.
type signal struct {
	Verb       verb        `json:"verb"`
	Round      string      `json:"round,omitempty"` // 16 bytes in hexadecimal
	Candidates []Candidate `json:"candidates,omitempty"`
	NAT4       Brief       `json:"nat4"`
	NAT6       Brief       `json:"nat6"`
	// Compare: there is a pair, and the round is to see whether another one is better.
	Compare bool `json:"compare,omitempty"`
	// Took is how long the follower took to reply, in microseconds: no part of the
	// round-trip time.
	Took int64 `json:"took_us,omitempty"`
}

// Brief is what a peer is told of our NAT.
type Brief struct {
	Mapping   Mapping   `json:"mapping,omitempty"`
	Filtering Filtering `json:"filtering,omitempty"`
	Blocked   bool      `json:"udp_blocked,omitempty"`
}

func (b Behaviour) brief() Brief { return Brief{b.Mapping, b.Filtering, b.Blocked} }

// known is b with words that we do not know replaced: it is shown to people, and any
// text, of any length, could come.
func (b Brief) known() Brief {
	if b.Mapping != "" && !slices.Contains(mappings, b.Mapping) {
		b.Mapping = UnknownMapping
	}
	if b.Filtering != "" && !slices.Contains(filterings, b.Filtering) {
		b.Filtering = UnknownFiltering
	}
	return b
}

// hard is Behaviour.Hard.
func (b Brief) hard() bool { return Behaviour{Mapping: b.Mapping}.Hard() }

var errSignal = errors.New("the peer's signal makes no sense")

func parseSignal(b []byte) (s signal, err error) {
	if len(b) > maxOffer {
		return s, errSignal
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%w: %w", errSignal, err)
	}
	if raw, err := hex.DecodeString(s.Round); err != nil || len(raw) != 16 && s.Verb != verbWant {
		return s, errSignal
	}
	s.NAT4, s.NAT6 = s.NAT4.known(), s.NAT6.known()
	return s, nil
}

// roundKey is the key of the checks of one round: HMAC-SHA256 of its name with the
// secret that both ends share.
func roundKey(secret [32]byte, round string) []byte {
	h := hmac.New(sha256.New, secret[:])
	h.Write([]byte("meshd check v1 " + round))
	return h.Sum(nil)
}

// offer gathers what we tell a peer.
func (a *Agent) offer(ctx context.Context, round string, compare bool) signal {
	age := surveyAge
	if compare {
		age = compareSurvey
	}
	v4, v6 := a.resurvey(ctx, age)
	candidates := a.more()
	for _, ip := range a.cfg.Addresses() {
		candidates = append(candidates, Candidate{Host, netip.AddrPortFrom(ip, a.cfg.Port)})
	}
	for _, b := range []Behaviour{v4, v6} {
		for _, at := range b.Mapped {
			candidates = append(candidates, Candidate{Reflexive, at})
			// Many NATs keep the port where they can, also where servers see others.
			candidates = append(candidates, Candidate{Observed, netip.AddrPortFrom(at.Addr(), a.cfg.Port)})
		}
	}
	for _, ip := range a.observed() {
		candidates = append(candidates, Candidate{Observed, netip.AddrPortFrom(ip, a.cfg.Port)})
	}
	have4, have6 := a.cfg.Families()
	candidates = slices.DeleteFunc(candidates, func(c Candidate) bool {
		is4 := c.Addr.Addr().Unmap().Is4()
		return is4 && !have4 || !is4 && !have6
	})
	return signal{Verb: verbOffer, Round: round, Compare: compare, Candidates: merge(a.cfg.Refuse, candidates...), NAT4: v4.brief(), NAT6: v6.brief()}
}

// observed are the addresses at which neighbours say that they see us, stock routers
// too, those that most agree on first.
func (a *Agent) observed() []netip.Addr {
	votes := map[netip.Addr]int{}
	a.mu.Lock()
	for _, p := range a.peers {
		if p.Session && p.Sees.IsValid() {
			votes[p.Sees]++
		}
	}
	a.mu.Unlock()
	ours := a.cfg.Addresses()
	maps.DeleteFunc(votes, func(ip netip.Addr, _ int) bool {
		return slices.Contains(ours, ip) || Usable(netip.AddrPortFrom(ip, a.cfg.Port)) != "" || a.refuse(ip) != ""
	})
	all := slices.SortedFunc(maps.Keys(votes), func(x, y netip.Addr) int {
		return cmp.Or(cmp.Compare(votes[y], votes[x]), x.Compare(y))
	})
	return all[:min(len(all), maxObserved)]
}

func (a *Agent) more() []Candidate {
	if a.cfg.More == nil {
		return nil
	}
	return a.cfg.More()
}

// remote are the candidates of a peer's offer that we send to.
func (a *Agent) remote(s signal) []Candidate {
	ours := a.cfg.Addresses()
	told := slices.Clone(s.Candidates[:min(len(s.Candidates), MaxCandidates)])
	for i := range told {
		if !slices.Contains(kindOrder, told[i].Kind) { // it is shown to people: any text could come
			told[i].Kind = UnknownKind
		}
	}
	out := merge(a.cfg.Refuse, told...)
	out = slices.DeleteFunc(out, func(c Candidate) bool { return slices.Contains(ours, c.Addr.Addr()) })
	a.refused.Add(uint64(len(told) - len(out)))
	return out
}

// resurvey asks the servers again, unless what they said is younger than age. Those
// who come while it is under way wait for it; should it be cut short, they ask again.
func (a *Agent) resurvey(ctx context.Context, age time.Duration) (v4, v6 Behaviour) {
	a.mu.Lock()
	seen := a.surveys
	for ctx.Err() == nil && a.surveys == seen {
		if done := a.surveying; done != nil {
			a.mu.Unlock()
			select {
			case <-done:
			case <-ctx.Done():
			}
			a.mu.Lock()
			continue
		}
		if now := time.Now(); now.Sub(a.behaviour[0].At) < age && now.Sub(a.behaviour[1].At) < age {
			break
		}
		done := make(chan struct{})
		a.surveying = done
		kicks := a.kicks
		a.mu.Unlock()
		four, six := a.surveyAll(ctx)
		a.mu.Lock()
		if ctx.Err() == nil { // else they had no time to answer
			a.surveyedLocked(kicks, four, six)
		}
		a.surveying = nil
		close(done)
	}
	defer a.mu.Unlock()
	return a.behaviour[0], a.behaviour[1]
}

// surveyedLocked keeps what a survey found that began after that many kicks. What has
// changed since then it may not have seen.
func (a *Agent) surveyedLocked(kicks int, four, six Behaviour) {
	a.surveys++
	for i, b := range []*Behaviour{&four, &six} { // measured on demand, and true as long as the rest is
		was, f := a.behaviour[i], &a.filter[i]
		if !f.anew && sameNAT(was, *b) && was.Filtering != "" {
			b.Filtering, b.Hairpin = was.Filtering, was.Hairpin
		}
		if a.kicks == kicks {
			f.surveyed(was, *b, b.At)
		} else {
			b.At = time.Time{}
		}
	}
	a.behaviour = [2]Behaviour{four, six}
	a.rouse()
}

// Survey asks the servers now, and returns what follows, and what peers are told.
func (a *Agent) Survey(ctx context.Context) (v4, v6 Behaviour, candidates []Candidate) {
	v4, v6 = a.resurvey(ctx, 0)
	var wg sync.WaitGroup
	for _, b := range []*Behaviour{&v4, &v6} {
		i := slices.IndexFunc(b.Answers, func(x Answer) bool { return x.Err == "" })
		if i < 0 {
			continue
		}
		wg.Go(func() { b.Filtering = b.Filtering.sharpened(a.filtering(ctx, b.Answers[i].Mapped, b.Answers)) })
		wg.Go(func() {
			seen := Unknown
			if len(b.Mapped) > 0 { // there is a NAT
				seen = a.hairpin(ctx, b.Mapped[0])
			}
			if seen != Unknown || b.Hairpin == "" {
				b.Hairpin = seen
			}
		})
	}
	wg.Wait()
	a.mu.Lock()
	for i, b := range []*Behaviour{&v4, &v6} {
		if was := a.behaviour[i]; sameNAT(was, *b) { // it may have been measured meanwhile
			b.Filtering = was.Filtering.sharpened(b.Filtering)
		}
		if b.Filtering != UnknownFiltering {
			a.filter[i] = filterPlan{}
		}
		a.behaviour[i] = *b
	}
	a.mu.Unlock()
	return v4, v6, a.offer(ctx, "", false).Candidates
}

// Behaviours is what is known of the NATs before us, for IPv4 and IPv6.
func (a *Agent) Behaviours() (v4, v6 Behaviour) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.behaviour[0], a.behaviour[1]
}

// surveyAll asks servers of both families.
func (a *Agent) surveyAll(ctx context.Context) (v4, v6 Behaviour) {
	servers := a.servers(ctx)
	local := a.cfg.Addresses()
	have4, have6 := a.cfg.Families()
	var four, six []Server
	for _, s := range servers {
		switch is4 := s.Addr.Addr().Unmap().Is4(); {
		case is4 && have4:
			four = append(four, s)
		case !is4 && have6:
			six = append(six, s)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { v4 = a.survey(ctx, four, local) })
	wg.Go(func() { v6 = a.survey(ctx, six, local) })
	wg.Wait()
	return v4, v6
}

// servers are the STUN servers to ask: the configured ones, and neighbours.
func (a *Agent) servers(ctx context.Context) []Server {
	var out []Server
	if a.cfg.Servers != nil {
		out = a.cfg.Servers(ctx)
	}
	a.mu.Lock()
	var neighbours []Peer
	for _, p := range a.peers {
		if p.Session && (p.Data.IsValid() || p.Dialled && p.Addr.IsValid()) {
			neighbours = append(neighbours, p.Peer)
		}
	}
	a.mu.Unlock()
	// Those that can be reached first: others may be on our side of the NAT.
	slices.SortFunc(neighbours, func(x, y Peer) int {
		if x.Dialled != y.Dialled {
			return cmp.Compare(ordinal(y.Dialled), ordinal(x.Dialled))
		}
		return comparePublic(x.Data.Addr(), y.Data.Addr())
	})
	for _, p := range neighbours {
		k, known := a.cfg.Find(p.Name)
		if !known || k.Data == 0 || a.refuse(p.Addr.Addr()) != "" {
			continue
		}
		s := Server{Name: cmp.Or(p.NickName, p.Name.String()), Addr: p.Data}
		if !s.Addr.IsValid() {
			s.Addr = netip.AddrPortFrom(p.Addr.Addr().Unmap(), k.Data)
		}
		if p.Dialled {
			s.Other = k.Other
		}
		out = append(out, s)
	}
	return out
}

func ordinal(b bool) int {
	if b {
		return 1
	}
	return 0
}

// comparePublic puts public addresses first: who is behind our NAT sees less.
func comparePublic(a, b netip.Addr) int {
	switch {
	case a.IsPrivate() == b.IsPrivate():
		return a.Compare(b)
	case b.IsPrivate():
		return -1
	}
	return 1
}
