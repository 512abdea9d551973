package punch

import (
	"net/netip"
	"time"

	"meshd/internal/encap"
	"meshd/internal/mux"
	"meshd/transport"
)

// probeDueLocked is when the next probe is due; zero: none is.
func (p *path) probeDueLocked(now time.Time) time.Time {
	if p.readyAt.IsZero() || p.socket == nil {
		return time.Time{}
	}
	// The one that was dialled lets the other one begin: a datagram that comes to the
	// dialler's gateway before one has left may take the dialler's port there.
	if hold := p.readyAt.Add(holdBack); !p.session.Dialled && p.HeardAt().IsZero() && now.Before(hold) {
		return hold
	}
	return p.Prober.Due(now, &p.Life)
}

// probeLocked orders a probe where one is due.
func (p *path) probeLocked(now time.Time, o *orders) {
	due := p.probeDueLocked(now)
	if due.IsZero() || now.Before(due) {
		return
	}
	// Both ends may have moved, and back, while neither heard the other. Then the
	// last known addresses are both wrong, and the first ones are a second chance.
	if !p.Life.Up && p.home != p.addr {
		o.home = p.home
	}
	o.probe, o.seq = true, p.Prober.Send(now, &p.Life)
}

// testLocked orders tests of the path's MTU.
func (p *path) testLocked(now time.Time, o *orders) {
	if !p.TestsLocked(now) {
		return
	}
	if p.PMTU.MTU() == 0 && p.routeMTU != 0 {
		p.PMTU.SetRoute(now, p.routeMTU)
	}
	o.tests = p.PMTU.Next(now, nil)
}

// sendProbe sends the probe that was ordered.
func (p *path) sendProbe(now time.Time, o orders) {
	items := encap.AppendNativeProbe(nil, encap.NativeQuestion{Sequence: o.seq, Heard: p.HeardAgo(now)})
	var by mux.Socket
	if o.home.IsValid() {
		by = p.t.mux.Socket(o.home)
	}
	p.send(items, o.home, by)
}

// sendTest asks whether the path carries inner IP packets of size bytes.
func (p *path) sendTest(size int) {
	items := encap.AppendNativeTest(nil, size+besides-encap.NativeOverhead)
	if p.tx.sendItems(items, netip.AddrPort{}, nil) != nil {
		p.stale.Store(true) // too big, or the route has gone: look at it
		p.Rouse()
	}
}

// send sends items that are lost where the socket does not take them: what they
// ask for is asked again.
func (p *path) send(items []byte, more netip.AddrPort, by mux.Socket) {
	_ = p.tx.sendItems(items, more, by)
}

// take takes what an authentic datagram has besides frames. bad is how many
// datagrams from the neighbour did not open.
func (p *path) take(now time.Time, n note, bad uint32) {
	if q, ok := n.item.Question(); ok {
		p.answer(now, q, bad)
		return
	}
	if a, ok := n.item.Answer(); ok {
		p.answered(now, a)
		return
	}
	if size, ok := n.item.Tested(); ok {
		p.tested(now, size)
		return
	}
	if n.item.Type != encap.NativeTest {
		p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
		return
	}
	if p.session.Counters.Rx.Within(now, p.answers) {
		p.send(encap.AppendNativeTested(nil, n.size), netip.AddrPort{}, nil)
	}
}

// answer answers a probe. bad is how many datagrams from the neighbour did not open.
func (p *path) answer(now time.Time, q encap.NativeQuestion, bad uint32) {
	p.Asked(now, q.Sequence, q.Heard)
	if p.session.Counters.Rx.Within(now, p.answers) {
		p.send(encap.AppendNativeReply(nil, encap.NativeAnswer{Sequence: q.Sequence, Bad: bad}), netip.AddrPort{}, nil)
	}
}

// answered takes the reply to a probe.
func (p *path) answered(now time.Time, a encap.NativeAnswer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sent, ok := p.RepliedLocked(now, a.Sequence); ok {
		p.keys.replied(sent)
		p.considerLocked(now, a.Bad)
	}
}

// considerLocked looks, with each reply, whether our large datagrams and our runs
// still arrive. A path may carry small datagrams and have stopped to carry large
// ones: while there are any, its MTU is verified all the time.
func (p *path) considerLocked(now time.Time, bad uint32) {
	sent, large := p.tx.datagrams()
	if large {
		p.PMTU.Doubt(now)
	}
	if p.runs.reply(now, bad, sent) {
		p.log.Warn("runs of datagrams arrive mangled: sending without", "addr", p.addr)
	}
}

// tested takes the answer to a test.
func (p *path) tested(now time.Time, size int) {
	p.mu.Lock()
	p.PMTU.Acked(now, size-besides)
	p.mu.Unlock()
	p.Rouse()
}
