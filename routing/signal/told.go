package signal

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
)

// inbound is a message that came, or work for the goroutine that delivers.
type inbound struct {
	work    func() // nil: a message
	from    Peer
	verb    verb
	id      uint64
	payload []byte
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
		c.replies.forgetAll(m)
		*m = member{uid: m.uid, limit: rate.NewLimiter(perSecond, atOnce), replies: map[uint64]*list.Element{}}
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
	case v == verbRequest && c.repliedLocked(m, id):
	case v == verbRequest, v == verbNotice:
		c.push(inbound{from: m.peer, verb: v, id: id, payload: body})
	}
}

// repliedLocked reports whether a request came before; its reply is sent again.
func (c *Channel) repliedLocked(m *member, id uint64) bool {
	text, before := c.replies.asked(m, id)
	if text != nil {
		name := m.peer.Name
		c.later(func() { c.sent(c.send(name, verbReply, id, text)) })
	}
	return before
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
func (c *Channel) reply(in inbound, text []byte) {
	c.mu.Lock()
	m := c.members[in.from.Name]
	current := m != nil && m.peer.Secret == in.from.Secret
	if current {
		c.replies.keep(m, in.id, text)
	}
	c.mu.Unlock()
	if current {
		c.sent(c.send(in.from.Name, verbReply, in.id, text))
	}
}
