package nat

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/stun/v3"
)

// STUN servers of RFC 5780 have a second address and port. Their answers name it
// (OTHER-ADDRESS), and on request (CHANGE-REQUEST) an answer comes from there, which we
// have never sent to. Such a server alone tells mapping and filtering, where no peers
// help. We are none ourselves: who answers from elsewhere can be made to hit others.

// silentTime is how long another address that did not answer is left alone: surveys for
// offers would wait for it each time.
const silentTime = 10 * time.Minute

// maxSilent is how many of them are kept.
const maxSilent = 16

// errKept says that a server answered from the address that was asked.
var errKept = errors.New("the server does not answer from another address (CHANGE-REQUEST, RFC 5780)")

// change is the attribute CHANGE-REQUEST, RFC 5780 section 7.2.
type change uint8

const (
	changePort change = 1 << 1
	changeIP   change = 1 << 2
)

func (c change) AddTo(m *stun.Message) error {
	m.Add(stun.AttrChangeRequest, []byte{0, 0, 0, byte(c)})
	return nil
}

// otherAddress is the other address that a server's answer names; not valid: none, or
// none that we may send to, which is counted.
func (a *Agent) otherAddress(m *stun.Message, server netip.AddrPort) netip.AddrPort {
	if !m.Contains(stun.AttrOtherAddress) {
		return netip.AddrPort{}
	}
	var told stun.OtherAddress
	err := told.GetFrom(m)
	ip, _ := netip.AddrFromSlice(told.IP)
	ip = ip.Unmap()
	at := netip.AddrPortFrom(ip, uint16(told.Port))
	from := server.Addr()
	if err != nil || Usable(at) != "" || a.refuse(ip) != "" || slices.Contains(a.cfg.Addresses(), ip) ||
		ip.Is4() != from.Is4() || ip == from || at.Port() == server.Port() ||
		ip.IsPrivate() && !from.IsPrivate() { // a server outside would have us look around inside
		a.refused.Add(1)
		return netip.AddrPort{}
	}
	return at
}

// elsewhere asks the first server that has another address there too, at the port that
// it was asked at and at the other one.
func (a *Agent) elsewhere(ctx context.Context, answers []Answer) []Answer {
	for _, x := range answers {
		if !x.Other.IsValid() || a.isSilent(x.Other.Addr()) {
			continue
		}
		asks := []Answer{
			{Server: x.Server, Addr: netip.AddrPortFrom(x.Other.Addr(), x.Addr.Port())},
			{Server: x.Server, Addr: x.Other},
		}
		a.askAll(ctx, asks, true)
		if asks[0].Err != "" && asks[1].Err != "" && ctx.Err() == nil {
			a.noteSilent(x.Other.Addr())
		}
		return asks
	}
	return nil
}

func (a *Agent) isSilent(ip netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, noted := a.silent[ip]
	return noted && time.Since(at) < silentTime
}

func (a *Agent) noteSilent(ip netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.silent) >= maxSilent {
		clear(a.silent)
	}
	a.silent[ip] = time.Now()
}

// filteringBy measures filtering with a server's other address, from a socket that has
// sent there nothing, RFC 5780 section 4.4.
func (a *Agent) filteringBy(ctx context.Context, server netip.AddrPort) Filtering {
	if a.cfg.Fresh == nil {
		return UnknownFiltering
	}
	fresh, end, err := a.cfg.Fresh(ctx)
	if err != nil {
		a.log.Debug("socket to measure filtering", "err", err)
		return UnknownFiltering
	}
	defer end()
	return fresh.filteringOf(ctx, server)
}

// filteringOf is filteringBy at this agent's own socket.
func (a *Agent) filteringOf(ctx context.Context, server netip.AddrPort) Filtering {
	first, err := a.ask(ctx, question{to: server, from: server})
	if err != nil || !first.other.IsValid() {
		return UnknownFiltering
	}
	var address, port error // from another address and port; from another port
	var wg sync.WaitGroup
	wg.Go(func() {
		_, address = a.ask(ctx, question{to: server, from: first.other, change: changeIP | changePort})
	})
	wg.Go(func() {
		from := netip.AddrPortFrom(server.Addr(), first.other.Port())
		_, port = a.ask(ctx, question{to: server, from: from, change: changePort})
	})
	wg.Wait()
	switch {
	case address == nil:
		return OpenFiltering
	case errors.Is(address, errKept) || errors.Is(port, errKept):
		return UnknownFiltering
	}
	// What comes from an address that is dead is not filtered.
	if _, err := a.ask(ctx, question{to: first.other, from: first.other, told: true}); err != nil {
		return UnknownFiltering
	}
	if port == nil {
		return AddressFiltering
	}
	return AddressPortFiltering
}
