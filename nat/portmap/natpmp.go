package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/jackpal/go-nat-pmp"
)

// The client cannot be interrupted, so it is called in turns: the first as long
// as RFC 6886 waits before it asks again, the others short enough to end in time.
const (
	pmpFirstTurn = 250 * time.Millisecond
	pmpTurn      = 500 * time.Millisecond
)

var errSilent = errors.New("no answer")

// natPMP asks a gateway by NAT-PMP.
type natPMP struct {
	gateway Gateway
	port    uint16 // ours
	epoch   epoch
	mapped  uint16 // external port of the mapping that may be there; 0: none
}

var _ asker = (*natPMP)(nil)

func newNATPMP(g Gateway, port uint16) *natPMP { return &natPMP{gateway: g, port: port} }

func (p *natPMP) protocol() string { return NATPMP }

func (p *natPMP) asked() uint16 { return p.mapped }

func (p *natPMP) add(ctx context.Context, external uint16, lifetime time.Duration) (lease, error) {
	addr, _, err := p.external(ctx)
	if err != nil {
		return lease{}, err
	}
	if p.mapped == 0 {
		p.mapped = external
	}
	r, err := call(ctx, p.gateway, func(c *natpmp.Client) (*natpmp.AddPortMappingResult, error) {
		return c.AddPortMappingWithDuration("udp", int(p.port), int(external), lifetime)
	})
	if err != nil {
		return lease{}, fmt.Errorf("ask for the mapping: %w", err)
	}
	if r.InternalPort != p.port || r.MappedExternalPort == 0 {
		return lease{}, fmt.Errorf("asked for port %d it forwarded its port %d to our port %d",
			p.port, r.MappedExternalPort, r.InternalPort)
	}
	p.mapped = r.MappedExternalPort
	p.epoch = epoch{r.SecondsSinceStartOfEpoc, time.Now()}
	granted := time.Duration(r.PortMappingLifetimeInSeconds) * time.Second
	if granted == 0 {
		return lease{}, errors.New("the mapping was granted for no time")
	}
	return lease{
		external: netip.AddrPortFrom(addr, r.MappedExternalPort),
		lifetime: min(granted, lifetime),
	}, nil
}

func (p *natPMP) check(ctx context.Context) (netip.Addr, error) {
	addr, seconds, err := p.external(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	if now := time.Now(); p.epoch.lost(seconds, now) {
		return netip.Addr{}, fmt.Errorf("%w: it started anew %d s ago", errLost, seconds)
	}
	p.epoch = epoch{seconds, time.Now()}
	return addr, nil
}

func (p *natPMP) external(ctx context.Context) (netip.Addr, uint32, error) {
	r, err := call(ctx, p.gateway, (*natpmp.Client).GetExternalAddress)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	addr := netip.AddrFrom4(r.ExternalIPAddress)
	if addr.IsUnspecified() {
		return netip.Addr{}, 0, errNoExternal
	}
	return addr, r.SecondsSinceStartOfEpoc, nil
}

func (p *natPMP) remove(ctx context.Context) error {
	if p.mapped == 0 {
		return nil
	}
	// RFC 6886, section 3.4: no external port and no lifetime.
	_, err := call(ctx, p.gateway, func(c *natpmp.Client) (*natpmp.AddPortMappingResult, error) {
		return c.AddPortMapping("udp", int(p.port), 0, 0)
	})
	if err != nil {
		return fmt.Errorf("take the mapping away: %w", err)
	}
	p.mapped = 0
	return nil
}

// call asks until there is an answer or ctx is done, and is back within a turn
// after that.
func call[R any](ctx context.Context, g Gateway, ask func(*natpmp.Client) (R, error)) (R, error) {
	for turn := pmpFirstTurn; ; turn = pmpTurn {
		start := time.Now()
		if end, ok := ctx.Deadline(); ok {
			turn = min(turn, end.Sub(start))
		}
		if ctx.Err() != nil || turn <= 0 {
			return *new(R), errSilent
		}
		c := natpmp.NewClientWithLocalAndTimeout(g.Addr.AsSlice(), g.Local.AsSlice(), turn)
		r, err := ask(c)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return r, errors.New("not spoken there")
		}
		// The client has no error of its own for a time that is over.
		if err == nil || time.Since(start) < turn {
			return r, resultWords(err)
		}
	}
}

// resultWords makes a result code readable, RFC 6886, section 3.5. The client
// tells codes in its words only.
func resultWords(err error) error {
	var code int
	if err == nil {
		return nil
	}
	if n, _ := fmt.Sscanf(err.Error(), "Non-zero result code %d", &code); n == 0 {
		return err
	}
	switch code {
	case 2:
		return errors.New("the gateway refuses: it is switched off there")
	case 3:
		return errNoExternal
	case 4:
		return errors.New("the gateway refuses: it has no mapping left")
	}
	return fmt.Errorf("the gateway refuses: result %d", code)
}

// epoch is a gateway's age, in seconds, as it told it at a time.
type epoch struct {
	seconds uint32
	at      time.Time
}

// lost tells from the gateway's present age whether it has lost its mappings
// since: RFC 6886, section 3.6.
func (e epoch) lost(seconds uint32, now time.Time) bool {
	passed := int64(now.Sub(e.at)/time.Second) * 7 / 8
	return int64(seconds) < int64(e.seconds)+passed-2
}
