package control

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Times of a race between the candidates of one target.
const (
	// dialStagger is the time between the starts of attempts at two addresses, RFC
	// 8305 section 5.
	dialStagger = 250 * time.Millisecond
	// carrierStagger is how long after TCP another carrier is tried at the same
	// address. TCP is what all peers speak, and the cheapest to set up: on most
	// networks it is open by then, and where it is not, 50 ms are not felt.
	carrierStagger = 50 * time.Millisecond
	// headStart is how long a handshake is left alone before one on the next stream
	// begins: four times what opening that stream took, within these bounds. A
	// handshake takes about three round trips.
	headStart    = 250 * time.Millisecond
	maxHeadStart = time.Second
	headStarts   = 4
)

// try is one candidate to dial, a time after the one before it.
type try struct {
	Candidate
	wait time.Duration // after the start of the try before; not if that has failed
}

// dialOrder puts candidates in the order in which they are dialled: RFC 8305,
// section 4, with the addresses of both families in turn, IPv6 first, and each
// family in the order given. At each address TCP is tried first, and the other
// carrier along with it. Further ports of one address come after all addresses.
func dialOrder(candidates []Candidate) (out []try) {
	byIP := map[netip.Addr][][]Candidate{} // for each address, what is tried together
	var ips []netip.Addr
	for _, c := range candidates {
		ip := c.Addr.Addr()
		if byIP[ip] == nil {
			ips = append(ips, ip)
		}
		byIP[ip] = pair(byIP[ip], c)
	}
	ips = interleave(ips)
	for round, found := 0, true; found; round++ {
		found = false
		for _, ip := range ips {
			if round < len(byIP[ip]) {
				found = true
				out = appendTries(out, byIP[ip][round])
			}
		}
	}
	return out
}

// pair adds c to the first group that does not have its carrier yet. TCP stands
// first in a group.
func pair(groups [][]Candidate, c Candidate) [][]Candidate {
	for i, g := range groups {
		if slices.ContainsFunc(g, func(x Candidate) bool { return x.Carrier == c.Carrier }) {
			continue
		}
		if c.Carrier == CarrierTCP {
			groups[i] = slices.Insert(g, 0, c)
		} else {
			groups[i] = append(g, c)
		}
		return groups
	}
	return append(groups, []Candidate{c})
}

// appendTries adds a group of candidates that are tried together, dialStagger
// after the group before.
func appendTries(out []try, group []Candidate) []try {
	wait := time.Duration(0)
	if len(out) > 0 {
		wait = dialStagger
		if out[len(out)-1].wait == carrierStagger { // its group began that much earlier
			wait -= carrierStagger
		}
	}
	for _, c := range group {
		out = append(out, try{c, wait})
		wait = carrierStagger
	}
	return out
}

// interleave sorts addresses: IPv6 and IPv4 in turn, IPv6 first.
func interleave(ips []netip.Addr) (out []netip.Addr) {
	var six, four []netip.Addr
	for _, ip := range ips {
		if ip.Is4() {
			four = append(four, ip)
		} else {
			six = append(six, ip)
		}
	}
	for i := range max(len(six), len(four)) {
		if i < len(six) {
			out = append(out, six[i])
		}
		if i < len(four) {
			out = append(out, four[i])
		}
	}
	return out
}

// race is one attempt at a target over all its candidates. It has two steps. First
// streams are opened, a little after each other. Then each open stream has its
// handshake, one at a time, but none waits for long for one that hangs. What
// becomes a session first ends the race: nothing is dialled any more, and streams
// that wait for their turn are closed, before the peer heard anything on them. A
// handshake under way is left to end by itself, since the peer may have taken it
// for a session already: if it becomes a second one, both ends keep the same one
// of the two by the rule for duplicates.
type race struct {
	m    *Mesh
	t    *target
	ctx  context.Context // done when the target is given up
	open context.Context // done when the race is decided too
	end  context.CancelFunc
	turn chan struct{} // capacity 1, holds a token while no handshake is under way
	wg   sync.WaitGroup
}

func (m *Mesh) newRace(ctx context.Context, t *target) *race {
	r := &race{m: m, t: t, ctx: ctx, turn: make(chan struct{}, 1)}
	r.open, r.end = context.WithCancel(ctx)
	r.pass()
	return r
}

// run makes all attempts until one settles the matter: then its outcome is the
// only one, else there is one for each try. Handshakes may go on after it; r.wg
// waits for them.
func (r *race) run(tries []try) []outcome {
	defer r.end()
	out := make([]outcome, len(tries))
	ended := make(chan int, len(tries)) // which of out is set; one send for each try
	timer := time.NewTimer(0)
	defer timer.Stop()
	begun, done := 0, 0
	for done < len(tries) {
		var next <-chan time.Time
		if begun < len(tries) {
			next = timer.C
		}
		select {
		case <-next:
			i, c := begun, tries[begun].Candidate
			r.wg.Go(func() {
				out[i] = outcome{c, r.try(c)}
				ended <- i
			})
			if begun++; begun < len(tries) {
				timer.Reset(tries[begun].wait)
			}
		case i := <-ended:
			if out[i].settles() {
				return []outcome{out[i]}
			}
			if done++; done == begun { // nothing to wait for
				timer.Reset(0)
			}
		}
	}
	return out
}

// try dials one candidate, once more for each further password that it may take.
func (r *race) try(c Candidate) error {
	for tries := 1; ; tries++ {
		err := r.once(c)
		if !r.m.another(c.Addr, err, tries) {
			return err
		}
	}
}

// once dials one candidate and shakes hands with who answers.
func (r *race) once(c Candidate) error {
	began := time.Now()
	stream, err := r.m.dial(r.open, c)
	if err != nil {
		return err
	}
	if !r.takeTurn(min(max(headStart, headStarts*time.Since(began)), maxHeadStart)) {
		stream.Close()
		return r.open.Err()
	}
	defer r.pass()
	err = r.m.greet(r.ctx, stream, c.Carrier, r.t, r.t.expected())
	if (outcome{c, err}).settles() {
		r.end() // before the next one has its turn
	}
	return err
}

// takeTurn waits until no handshake is under way, or those that are had a head
// start; false: the race is over.
func (r *race) takeTurn(head time.Duration) bool {
	timer := time.NewTimer(head)
	defer timer.Stop()
	select {
	case <-r.turn:
	case <-timer.C:
	case <-r.open.Done():
	}
	return r.open.Err() == nil
}

// pass lets the next stream have its handshake.
func (r *race) pass() {
	select {
	case r.turn <- struct{}{}:
	default:
	}
}
