package signal

import (
	"container/list"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
	"meshd/internal/identity"
)

// Name is the gossip channel's name.
const Name = "meshd-signal"

// Bounds of what others can make us do and keep.
const (
	maxPeers      = 4096 // announcements that are kept: as many as there are short IDs
	perSecond     = 50   // messages that are taken from one peer
	atOnce        = 100
	checksPerSec  = 200 // announcements whose signatures are checked, of all peers together
	checksAtOnce  = 400
	answersPerSec = 50 // announcements sent because somebody announced itself
	answersAtOnce = 200
	maxAnswering  = 64 // requests of all peers that are worked on
)

// Times of announcements and requests.
const (
	announceEvery  = 5 * time.Minute
	announceSoon   = 100 * time.Millisecond // after a peer is new: others may be about to be
	announceLeast  = 500 * time.Millisecond // between two broadcasts
	retransmitMin  = 200 * time.Millisecond // doubles with each
	retransmitMost = 2 * time.Second
)

// announceAgain is when a peer whose announcement has not come is asked for it,
// after it is new: routes to it may have needed a moment, through stock routers a
// second. A stock router never answers.
var announceAgain = []time.Duration{200 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond, 4 * time.Second, 15 * time.Second, time.Minute}

// Errors of a request.
var (
	ErrUnknown = errors.New("the peer has not announced itself: it is a stock router or an older meshd, or no announcement has arrived yet")
	ErrSilent  = errors.New("the peer did not answer over the mesh")
)

// Config is what a Channel needs for its whole life.
type Config struct {
	Self     frame.PeerName
	UID      uint64
	Identity *identity.Identity
	// Check says why a key may not be that of a peer; nil: it may.
	Check func(name frame.PeerName, key *identity.Key) error
	// Unicast and Broadcast send a payload on the channel. They may wait for the mesh.
	Unicast   func(dst frame.PeerName, payload []byte) error
	Broadcast func(payload []byte) error
	// Answer takes a request, which reply answers; it may go on after that. Each has a
	// goroutine of Run's. Notice takes a message that wants no reply; it must not
	// block. payload is the callee's.
	Answer func(ctx context.Context, from Peer, payload []byte, reply func([]byte))
	Notice func(from Peer, payload []byte)
	// Known is told of each peer that has announced itself, also when its
	// announcement has changed.
	Known func(Peer)
	Log   *slog.Logger
}

// Peer is one incarnation of a peer that has announced itself.
type Peer struct {
	Name  frame.PeerName
	UID   uint64
	Key   identity.Key
	Ports Ports
	// Secret is shared with this incarnation of the peer and nobody else, the
	// same at both ends.
	Secret [32]byte
}

// Counts are how many messages were of no use, and why.
type Counts struct {
	Forged   uint64 // announcements and messages whose proofs do not fit
	Replayed uint64
	Refused  uint64 // the key is not trusted for the name, or the incarnation is another
	Excess   uint64 // came too fast, or there was no room
}

// Channel is our end. Its methods may be called concurrently.
type Channel struct {
	cfg     Config
	private *ecdh.PrivateKey
	checks  *rate.Limiter
	answers *rate.Limiter
	inbox   chan inbound  // Told sends, Run receives; full: dropped and counted
	wake    chan struct{} // capacity 1

	forged, replayed, refused, excess atomic.Uint64

	mu      sync.Mutex // guards below; held for no callback
	ports   Ports
	keys    []*[32]byte                // mesh keys of our passwords
	members map[frame.PeerName]*member // those in the topology, but ourselves
	waiting map[uint64]chan []byte     // requests of ours, capacity 1 each
	ours    [2][]byte                  // announcements: plain, and asking
	due     time.Time                  // of the next broadcast; zero: none is planned
	last    time.Time                  // of the last one
	counter uint64                     // of what we sealed, for all peers together: never used twice
	replies replies                    // to requests of members
}

// member is a peer in the topology.
type member struct {
	uid     uint64 // 0: not known yet
	asked   int    // times
	askAt   time.Time
	raw     []byte // its announcement; nil: has not come
	peer    Peer
	keys    *pairKeys
	window  window // of messages sealed with peer.Secret; both outlive an announcement
	limit   *rate.Limiter
	replies map[uint64]*list.Element // of Channel.replies, by ID of the request; nil value: being worked on, or none is sent
	order   []uint64                 // of the requests, oldest first
}

// New makes a channel that knows nobody. It starts nothing.
func New(c Config) (*Channel, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Channel{
		cfg: c, private: private,
		checks: rate.NewLimiter(checksPerSec, checksAtOnce), answers: rate.NewLimiter(answersPerSec, answersAtOnce),
		inbox: make(chan inbound, 256), wake: make(chan struct{}, 1),
		members: map[frame.PeerName]*member{}, waiting: map[uint64]chan []byte{},
	}, nil
}

// Set tells what we announce: our ports, and the mesh keys of the passwords that we
// accept. When they change everybody is told, and has to announce itself anew.
func (c *Channel) Set(ports Ports, keys []*[32]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changed := len(keys) != len(c.keys); !changed {
		for i := range keys {
			changed = changed || *keys[i] != *c.keys[i]
		}
		if !changed && ports == c.ports && c.ours[0] != nil {
			return
		}
	}
	c.ports, c.keys = ports, keys
	a := announcement{uid: c.cfg.UID, key: [32]byte(c.private.PublicKey().Bytes()), identity: c.cfg.Identity.Public(), ports: ports}
	for i, k := range []kind{kindAnnounce, kindAsk} {
		c.ours[i] = appendAnnouncement(k, c.cfg.Self, a, keys, c.cfg.Identity)
	}
	now := time.Now()
	for _, m := range c.members {
		m.raw, m.keys, m.asked, m.askAt = nil, nil, 0, now.Add(announceAgain[0])
	}
	c.planLocked(now)
}

// Members tells who is in the mesh, by name with the UID or 0 where it is not known
// yet, ourselves left out. Those that are missing are forgotten.
func (c *Channel) Members(now time.Time, uids map[frame.PeerName]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.members, func(name frame.PeerName, m *member) bool {
		uid, there := uids[name]
		if there && (uid == m.uid || uid == 0 || m.uid == 0) {
			return false
		}
		c.replies.forgetAll(m)
		return true
	})
	for name, uid := range uids {
		m := c.members[name]
		switch {
		case m == nil && len(c.members) < maxPeers:
			c.members[name] = &member{uid: uid, askAt: now.Add(announceAgain[0])}
			c.planLocked(now)
		case m != nil && m.uid == 0:
			m.uid = uid
		}
	}
}

// planLocked makes a broadcast due soon.
func (c *Channel) planLocked(now time.Time) {
	at := now.Add(announceSoon)
	if least := c.last.Add(announceLeast); at.Before(least) {
		at = least
	}
	if c.due.IsZero() || at.Before(c.due) {
		c.due = at
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Find is a peer that has announced itself; false: it has not.
func (c *Channel) Find(name frame.PeerName) (Peer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[name]; m != nil && m.raw != nil {
		return m.peer, true
	}
	return Peer{}, false
}

// Counts reads the counters.
func (c *Channel) Counts() Counts {
	return Counts{c.forged.Load(), c.replayed.Load(), c.refused.Load(), c.excess.Load()}
}

// Run announces us, and hands over what comes, until ctx is done. Then it returns nil.
func (c *Channel) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { c.deliver(ctx) })
	defer wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
		}
		timer.Reset(time.Until(c.announce(time.Now())))
	}
}

// announce sends what is due and returns when to come back.
func (c *Channel) announce(now time.Time) time.Time {
	c.mu.Lock()
	var all bool
	if all = !c.due.IsZero() && !c.due.After(now) && c.ours[0] != nil; all {
		c.last, c.due = now, now.Add(announceEvery)
	}
	next := now.Add(announceEvery)
	if !c.due.IsZero() && c.due.Before(next) {
		next = c.due
	}
	var ask []frame.PeerName
	for name, m := range c.members {
		if m.raw != nil || c.ours[1] == nil || m.asked >= len(announceAgain) {
			continue
		}
		if !m.askAt.After(now) {
			ask = append(ask, name)
			if m.asked++; m.asked < len(announceAgain) {
				m.askAt = m.askAt.Add(announceAgain[m.asked])
			}
		}
		if m.asked < len(announceAgain) && m.askAt.Before(next) {
			next = m.askAt
		}
	}
	plain, asking := c.ours[0], c.ours[1]
	c.mu.Unlock()
	if all {
		c.sent(c.cfg.Broadcast(plain))
	}
	for _, name := range ask {
		c.sent(c.cfg.Unicast(name, asking))
	}
	return next
}

// sent takes the outcome of sending: what is lost is sent again anyway.
func (c *Channel) sent(err error) {
	if err != nil {
		c.cfg.Log.Debug("signalling", "err", err)
	}
}
