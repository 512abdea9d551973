package nat

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v3"
	"golang.org/x/time/rate"

	"meshd/internal/frame"
)

// Bounds of what others can make us do and keep.
const (
	maxPending    = 1024 // requests of ours that wait for an answer
	maxChecks     = 64   // rounds under way
	answersPerSec = 500  // binding requests answered
	answersAtOnce = 500
)

// Peer is a peer of the mesh, as the control plane has it.
type Peer struct {
	Name     frame.PeerName
	NickName string
	UID      uint64
	Session  bool           // there is a session with it
	Direct   bool           // a path to it works
	Dialled  bool           // its control connection was dialled over TCP: it can be reached
	Addr     netip.AddrPort // the other end of its session; invalid: unknown
	Data     netip.AddrPort // of its data socket, over a path that works; invalid: unknown
	Pair     netip.AddrPort // of its data socket, that native datagrams use now; invalid: none do
	Sees     netip.Addr     // where it sees our control connection from, as it says; invalid: unknown
}

// Known is what a peer has announced of itself.
type Known struct {
	UID    uint64
	Secret [32]byte // shared with us
	Data   uint16   // UDP port that it answers STUN at
	Other  uint16   // another one; 0: there is none
}

// Config is what an Agent needs to know.
type Config struct {
	Self frame.PeerName
	// Port is the UDP port of the data sockets, Families whether there is one of
	// IPv4 and of IPv6.
	Port     uint16
	Families func() (v4, v6 bool)
	// Send sends from the data socket of the address's family, over that many hops; 0:
	// as many as usual.
	Send func(to netip.AddrPort, b []byte, hops int) error
	// Addresses are the host's own that may be offered.
	Addresses func() []netip.Addr
	// Refuse says why nothing is sent to an address; empty: it may. nil: none is refused.
	Refuse func(netip.Addr) string
	// Servers are STUN servers besides the peers.
	Servers func(ctx context.Context) []Server
	// More are candidates that others found: mapped and configured ones.
	More func() []Candidate
	// Find is what a peer has announced; false: nothing.
	Find func(frame.PeerName) (Known, bool)
	// Request and Notify send messages to a peer over the mesh.
	Request func(ctx context.Context, to frame.PeerName, payload []byte) (reply []byte, rtt time.Duration, err error)
	Notify  func(to frame.PeerName, payload []byte) error
	// Probe sends from a socket made for it, as strangers would. nil: no peer gets help
	// to measure its filtering.
	Probe func(to netip.AddrPort, b []byte) error
	// Fresh makes an agent at a socket of its own that has sent nothing yet, to measure
	// filtering with a server's help; end closes it. nil: that is not done.
	Fresh func(ctx context.Context) (fresh *Agent, end func() error, err error)
	// Found is told that checks went both ways between our data socket and a peer's
	// address; Meet makes a session there.
	Found func(peer frame.PeerName, at netip.AddrPort)
	Meet  func(ctx context.Context, peer frame.PeerName, at netip.AddrPort) error
	// Move makes native datagrams go to another address of the peer, where checks were
	// just answered: the peer will follow. nil: pairs in use are not compared.
	Move func(peer frame.PeerName, at netip.AddrPort)
	Log  *slog.Logger
}

// Counts are how many STUN messages and signals were of no use, and why.
type Counts struct {
	Answered  uint64 // binding requests
	Malformed uint64
	Unasked   uint64 // answers that nobody asked for, or from another address
	Forged    uint64 // checks whose key does not fit
	Excess    uint64 // requests beyond the rate
	Refused   uint64 // candidates and answers that point to addresses that must not be used
	Unspent   uint64 // checks not sent: addresses that do not answer get a handful only
}

// Agent finds direct ways to all peers of the mesh. Its methods may be called
// concurrently.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	budget  budget
	answers *rate.Limiter
	wake    chan struct{} // capacity 1

	answered, malformed, unasked, forged, excess, refused, unspent atomic.Uint64

	mu        sync.Mutex // guards below; held for no callback
	pending   map[transactionID]pending
	checks    map[string]*check // by user name
	peers     map[frame.PeerName]*peer
	behaviour [2]Behaviour             // of IPv4 and IPv6
	filter    [2]filterPlan            // of either
	surveying chan struct{}            // closed when the survey under way is over; nil: none is
	surveys   int                      // that were finished
	kicks     int                      // changes of addresses, routes or NATs
	silent    map[netip.Addr]time.Time // other addresses of servers that did not answer
}

// pending is a request that waits for its answer.
// Its functions are called by a reader, and do not block.
type pending struct {
	to   netip.AddrPort // that has to answer
	take func(m *stun.Message, at netip.AddrPort)
	// asked is where the request went, if not to who has to answer; kept is told that
	// the answer, whatever it is, came from there.
	asked netip.AddrPort
	kept  func()
	echo  func() // is told that the request came back to us; nil: it is not for us
}

// New makes an agent. It starts nothing.
func New(c Config) *Agent {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return &Agent{
		cfg: c, log: c.Log, answers: rate.NewLimiter(answersPerSec, answersAtOnce), wake: make(chan struct{}, 1),
		pending: map[transactionID]pending{}, checks: map[string]*check{}, peers: map[frame.PeerName]*peer{}, silent: map[netip.Addr]time.Time{},
	}
}

// Counts reads the counters.
func (a *Agent) Counts() Counts {
	return Counts{a.answered.Load(), a.malformed.Load(), a.unasked.Load(), a.forged.Load(), a.excess.Load(), a.refused.Load(), a.unspent.Load()}
}

// Take takes a STUN message that came from an address to a data socket, or to another
// one that answers with reply. b is borrowed. It does not block.
func (a *Agent) Take(b []byte, from netip.AddrPort, reply func(to netip.AddrPort, b []byte)) {
	m, err := parse(slices.Clone(b))
	if err != nil || m.Type.Method != stun.MethodBinding {
		a.malformed.Add(1)
		return
	}
	switch m.Type.Class {
	case stun.ClassRequest:
		a.requested(m, from, reply)
	case stun.ClassSuccessResponse, stun.ClassErrorResponse:
		a.responded(m, from)
	}
}

// requested answers a request: one with a user name belongs to a round. All answers go
// out where the request came in, whatever CHANGE-REQUEST says.
func (a *Agent) requested(m *stun.Message, from netip.AddrPort, reply func(netip.AddrPort, []byte)) {
	if !a.answers.Allow() {
		a.excess.Add(1)
		return
	}
	a.mu.Lock()
	ours := a.pending[m.TransactionID]
	a.mu.Unlock()
	if ours.echo != nil {
		ours.echo()
		return
	}
	var key []byte
	if user, err := m.Get(stun.AttrUsername); err == nil {
		a.mu.Lock()
		c := a.checks[string(user)]
		a.mu.Unlock()
		if c == nil || stun.MessageIntegrity(c.key).Check(m) != nil {
			a.forged.Add(1)
			return
		}
		key = c.key
		_, err := m.Get(useCandidate)
		defer c.heard(from, err == nil)
	}
	b, err := bindingResponse(m.TransactionID, from, key)
	if err != nil {
		a.malformed.Add(1)
		return
	}
	a.answered.Add(1)
	if key == nil {
		from = wantedPort(m, from)
	}
	reply(from, b)
}

// responded hands an answer to who asked.
func (a *Agent) responded(m *stun.Message, from netip.AddrPort) {
	a.mu.Lock()
	p, asked := a.pending[m.TransactionID]
	kept := asked && p.kept != nil && p.asked == from
	right := asked && p.take != nil && p.to == from
	if kept || right {
		delete(a.pending, m.TransactionID)
	}
	a.mu.Unlock()
	if kept {
		p.kept()
		return
	}
	if !right || m.Type.Class != stun.ClassSuccessResponse {
		a.unasked.Add(1)
		return
	}
	at, err := mapped(m)
	if err != nil {
		a.malformed.Add(1)
		return
	}
	p.take(m, at)
}

// expect registers who takes the answer to a request; forget takes that back.
func (a *Agent) expect(id transactionID, p pending) (ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending) >= maxPending {
		return false
	}
	a.pending[id] = p
	return true
}

func (a *Agent) forget(ids ...transactionID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		delete(a.pending, id)
	}
}

// Ask asks a STUN server what it sees our data socket as. The error is ErrNoAnswer,
// or says what is wrong with the answer.
func (a *Agent) Ask(ctx context.Context, server netip.AddrPort) (at netip.AddrPort, rtt time.Duration, err error) {
	server = netip.AddrPortFrom(server.Addr().Unmap(), server.Port())
	h, err := a.ask(ctx, question{to: server, from: server})
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	return h.mapped, h.rtt, nil
}

// question is what a server is asked.
type question struct {
	to     netip.AddrPort
	from   netip.AddrPort // that has to answer
	change change         // by which the server knows that; 0: from is to
	told   bool           // another server told of to: no more is sent there than to peers' candidates
}

// heard is what a server answers.
type heard struct {
	mapped netip.AddrPort // what it sees us as
	other  netip.AddrPort // its other address; not valid: none
	rtt    time.Duration
}

// ask asks a server. Besides what Ask says the error may be errKept.
func (a *Agent) ask(ctx context.Context, q question) (heard, error) {
	type answer struct {
		m  *stun.Message
		at netip.AddrPort
	}
	answers, kept := make(chan answer, askTimes), make(chan struct{}, askTimes)
	p := pending{to: q.from, take: func(m *stun.Message, at netip.AddrPort) {
		answers <- answer{m, at}
	}}
	if q.change != 0 {
		p.asked, p.kept = q.to, func() { kept <- struct{}{} }
	}
	var ids []transactionID
	defer func() { a.forget(ids...) }()
	wait := askFirst
	for range askTimes {
		id, sent := newTransactionID(), time.Now()
		if !a.expect(id, p) {
			return heard{}, fmt.Errorf("more than %d requests wait for answers", maxPending)
		}
		ids = append(ids, id)
		if q.told && !a.budget.allow(sent, q.to) {
			a.unspent.Add(1)
			return heard{}, ErrNoAnswer
		}
		if err := a.cfg.Send(q.to, bindingRequest(id, q.change), 0); err != nil {
			return heard{}, err
		}
		timer := time.NewTimer(wait)
		select {
		case x := <-answers:
			timer.Stop()
			if q.told {
				a.budget.answered(q.to)
			}
			h := heard{mapped: x.at, rtt: time.Since(sent)}
			if q.change == 0 && !q.told { // not needed there, and some that coturn names would be refused
				h.other = a.otherAddress(x.m, q.to)
			}
			return h, a.doubt(x.at)
		case <-kept:
			timer.Stop()
			return heard{}, errKept
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return heard{}, context.Cause(ctx)
		}
		wait *= 2
	}
	return heard{}, ErrNoAnswer
}

// doubt is what is wrong with the address that a server says we have.
func (a *Agent) doubt(at netip.AddrPort) error {
	why := Usable(at)
	if slices.Contains(a.cfg.Addresses(), at.Addr()) {
		why = ""
	}
	if why = cmp.Or(why, a.refuse(at.Addr())); why == "" {
		return nil
	}
	a.refused.Add(1)
	return fmt.Errorf("it says that we are %v: %s", at, why)
}

func (a *Agent) refuse(ip netip.Addr) string {
	if a.cfg.Refuse == nil {
		return ""
	}
	return a.cfg.Refuse(ip)
}
