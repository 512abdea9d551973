package signal

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
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
	maxReplies    = 16   // of each peer's requests, kept for when they come again
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
	replies map[uint64][]byte // by ID; nil value: being worked on, or none is sent
	order   []uint64          // of the replies, oldest first
}

// inbound is a message that came, or work for the goroutine that delivers.
type inbound struct {
	work    func() // nil: a message
	from    Peer
	verb    verb
	id      uint64
	payload []byte
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
		return !there || uid != m.uid && uid != 0 && m.uid != 0
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

// Told takes a payload of the channel. It is borrowed. Told does not wait, but for
// the checks of a signature.
func (c *Channel) Told(src frame.PeerName, payload []byte) {
	if src == c.cfg.Self || len(payload) < offCounter || payload[0] != version {
		c.forged.Add(1)
		return
	}
	switch kind(payload[offKind]) {
	case kindAnnounce, kindAsk:
		c.toldAnnouncement(src, payload)
	case kindSealed:
		c.toldSealed(src, payload)
	}
}

// toldAnnouncement keeps a peer's announcement.
func (c *Channel) toldAnnouncement(src frame.PeerName, payload []byte) {
	asks := kind(payload[offKind]) == kindAsk
	c.mu.Lock()
	m := c.members[src]
	known := m != nil && same(m.raw, payload)
	keys := c.keys
	c.mu.Unlock()
	if m == nil { // not in the topology, or not yet: it is asked when it is
		c.refused.Add(1)
		return
	}
	if !known {
		if !c.checks.Allow() {
			c.excess.Add(1)
			return
		}
		if err := c.takeAnnouncement(src, payload, keys); err != nil {
			c.cfg.Log.Debug("announcement refused", "peer", src, "err", err)
			return
		}
	}
	if (asks || !known) && c.answers.Allow() {
		c.mu.Lock()
		plain := c.ours[0]
		c.mu.Unlock()
		if plain != nil {
			c.later(func() { c.sent(c.cfg.Unicast(src, plain)) })
		}
	}
}

// later runs f in the goroutine that delivers, since who calls Told may not wait.
func (c *Channel) later(f func()) { c.push(inbound{work: f}) }

// takeAnnouncement checks and keeps an announcement.
func (c *Channel) takeAnnouncement(src frame.PeerName, payload []byte, keys []*[32]byte) error {
	a, with, err := parseAnnouncement(src, payload, keys)
	if err != nil {
		c.forged.Add(1)
		return err
	}
	if err := c.cfg.Check(src, &a.identity); err != nil {
		c.refused.Add(1)
		return err
	}
	us := end{c.cfg.Self, c.cfg.UID, [32]byte(c.private.PublicKey().Bytes())}
	pair, err := newPairKeys(c.private, us, end{src, a.uid, a.key}, with)
	if err != nil {
		c.forged.Add(1)
		return err
	}
	peer := Peer{Name: src, UID: a.uid, Key: a.identity, Ports: a.ports, Secret: pair.secret}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[src]
	if m == nil || m.uid != 0 && m.uid != a.uid { // a former run's, sent again by somebody
		c.refused.Add(1)
		return fmt.Errorf("announced by another incarnation, %#x", a.uid)
	}
	if m.peer.Secret != pair.secret {
		*m = member{uid: m.uid, limit: rate.NewLimiter(perSecond, atOnce), replies: map[uint64][]byte{}}
	}
	m.raw, m.peer, m.keys = append([]byte(nil), payload...), peer, pair
	c.later(func() { c.cfg.Known(peer) })
	return nil
}

// toldSealed opens a message.
func (c *Channel) toldSealed(src frame.PeerName, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[src]
	if m == nil || m.keys == nil {
		c.refused.Add(1)
		return
	}
	counter, v, id, body, err := m.keys.opened(payload)
	switch {
	case err != nil:
		c.forged.Add(1)
	case !m.window.take(counter):
		c.replayed.Add(1)
	case !m.limit.Allow():
		c.excess.Add(1)
	case v == verbReply:
		if w := c.waiting[id]; w != nil {
			select {
			case w <- body:
			default: // it came twice
			}
		}
	case v == verbRequest && m.repliedLocked(c, id):
	case v == verbRequest, v == verbNotice:
		c.push(inbound{from: m.peer, verb: v, id: id, payload: body})
	}
}

// repliedLocked reports whether a request came before; its reply is sent again.
func (m *member) repliedLocked(c *Channel, id uint64) bool {
	reply, before := m.replies[id]
	if !before {
		if len(m.order) >= maxReplies {
			delete(m.replies, m.order[0])
			m.order = m.order[1:]
		}
		m.replies[id], m.order = nil, append(m.order, id)
		return false
	}
	if reply != nil {
		name := m.peer.Name
		c.later(func() { c.sent(c.send(name, verbReply, id, reply)) })
	}
	return true
}

// push queues what Run's goroutine does.
func (c *Channel) push(in inbound) {
	select {
	case c.inbox <- in:
	default:
		c.excess.Add(1)
	}
}

// deliver hands over what has come. It returns after all that it began.
func (c *Channel) deliver(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, maxAnswering)
	for {
		select {
		case <-ctx.Done():
			return
		case in := <-c.inbox:
			switch {
			case in.work != nil:
				in.work()
			case in.verb == verbNotice:
				c.cfg.Notice(in.from, in.payload)
			default:
				select {
				case room <- struct{}{}:
					wg.Go(func() {
						defer func() { <-room }()
						c.cfg.Answer(ctx, in.from, in.payload, func(b []byte) { c.reply(in, b) })
					})
				default:
					c.excess.Add(1)
				}
			}
		}
	}
}

// reply answers a request, and keeps the reply for when the request comes again.
func (c *Channel) reply(in inbound, reply []byte) {
	c.mu.Lock()
	m := c.members[in.from.Name]
	current := m != nil && m.peer.Secret == in.from.Secret
	if current {
		if _, kept := m.replies[in.id]; kept {
			m.replies[in.id] = reply
		}
	}
	c.mu.Unlock()
	if current {
		c.sent(c.send(in.from.Name, verbReply, in.id, reply))
	}
}

// send seals and sends one message.
func (c *Channel) send(to frame.PeerName, v verb, id uint64, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("a message of %d bytes, not up to %d", len(payload), MaxPayload)
	}
	c.mu.Lock()
	m := c.members[to]
	if m == nil || m.keys == nil {
		c.mu.Unlock()
		return ErrUnknown
	}
	c.counter++
	b := m.keys.sealed(c.counter, v, id, payload)
	c.mu.Unlock()
	return c.cfg.Unicast(to, b)
}

// Notify sends a message that wants no reply, once. It may be lost.
func (c *Channel) Notify(to frame.PeerName, payload []byte) error {
	return c.send(to, verbNotice, 0, payload)
}

// Request sends a request until it is answered or ctx is done, and returns the reply,
// and the time from the last time it was sent to the reply: the round-trip time, or
// less where an earlier one was answered. The error is ErrUnknown or ErrSilent.
func (c *Channel) Request(ctx context.Context, to frame.PeerName, payload []byte) (reply []byte, rtt time.Duration, err error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, 0, err
	}
	id, answered := binary.BigEndian.Uint64(b[:]), make(chan []byte, 1)
	c.mu.Lock()
	c.waiting[id] = answered
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	for wait := retransmitMin; ; wait = min(2*wait, retransmitMost) {
		sent := time.Now()
		if err := c.send(to, verbRequest, id, payload); errors.Is(err, ErrUnknown) {
			return nil, 0, err
		} else if err != nil {
			c.sent(err) // no route now; there may be one in a moment
		}
		timer := time.NewTimer(wait)
		select {
		case reply := <-answered:
			timer.Stop()
			return reply, time.Since(sent), nil
		case <-ctx.Done():
			timer.Stop()
			return nil, 0, fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
		case <-timer.C:
		}
	}
}
