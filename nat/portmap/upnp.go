package portmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/huin/goupnp/dcps/internetgateway2"
	"github.com/huin/goupnp/soap"
)

const (
	// maxConnections is how many services of a device we try: one may have
	// several, of which one is connected.
	maxConnections = 4
	// morePorts is how many external ports we try after the one that we want.
	morePorts = 3
	// maxLease is the longest lifetime of version 2 gateways (WANIPConnection:2,
	// PortMappingLeaseDuration).
	maxLease = 604800 * time.Second

	description = "meshd"
	removePause = 100 * time.Millisecond
)

// Error codes of WANIPConnection:1 (section 2.4.16) and :2.
const (
	faultInvalidArgs   = 402
	faultNoSuchEntry   = 714
	faultConflict      = 718
	faultPermanentOnly = 725
	faultOtherUse      = 729
)

// connection is a WANIPConnection or WANPPPConnection service.
type connection interface {
	GetExternalIPAddressCtx(context.Context) (string, error)
	AddPortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string,
		internalPort uint16, internalClient string, enabled bool, description string, leaseSeconds uint32) error
	DeletePortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string) error
	GetSpecificPortMappingEntryCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string) (
		internalPort uint16, internalClient string, enabled bool, description string, leaseSeconds uint32, err error)
}

var (
	_ connection = (*internetgateway2.WANIPConnection2)(nil)
	_ connection = (*internetgateway2.WANIPConnection1)(nil)
	_ connection = (*internetgateway2.WANPPPConnection1)(nil)
)

// upnp asks a gateway by UPnP-IGD, version 1 or 2.
type upnp struct {
	gateway   Gateway
	port      uint16     // ours
	conn      connection // nil: not found yet
	permanent bool       // the gateway knows no other mappings
	blind     bool       // the gateway cannot tell whose a mapping is
	mapped    uint16     // external port of the mapping that may be there; 0: none
}

var _ asker = (*upnp)(nil)

func newUPnP(g Gateway, port uint16) *upnp { return &upnp{gateway: g, port: port} }

func (u *upnp) protocol() string { return UPnP }

func (u *upnp) asked() uint16 { return u.mapped }

func (u *upnp) add(ctx context.Context, external uint16, lifetime time.Duration) (lease, error) {
	addr, err := u.external(ctx)
	if err != nil {
		return lease{}, err
	}
	for try := 0; ; try++ {
		err = u.addPort(ctx, external, lifetime)
		if try == morePorts || !isConflict(err) {
			break
		}
		external = randomPort()
	}
	if err != nil {
		return lease{}, fmt.Errorf("ask for the mapping: %w", faultWords(err))
	}
	owner, left, err := u.owner(ctx, external)
	u.blind = err != nil || owner != ours
	switch {
	case u.permanent:
		lifetime = 0
	case !u.blind && left > 0: // 0: for ever, or it does not say
		lifetime = min(lifetime, left)
	}
	return lease{netip.AddrPortFrom(addr, external), lifetime}, nil
}

// randomPort is one of the dynamic ports (RFC 6335, section 6).
func randomPort() uint16 { return 49152 + rand.N(uint16(65535-49152)) }

// errTaken says that another host has the external port.
var errTaken = errors.New("the external port is another host's")

func isConflict(err error) bool {
	code := faultCode(err)
	return errors.Is(err, errTaken) || code == faultConflict || code == faultOtherUse
}

// addPort maps one external port, or renews it.
func (u *upnp) addPort(ctx context.Context, external uint16, lifetime time.Duration) error {
	owner := nobodys
	if !u.blind {
		// Some gateways would take the port from another host without a word.
		owner, _, _ = u.owner(ctx, external)
	}
	if owner == others {
		return errTaken
	}
	err := u.ask(ctx, external, lifetime)
	if isConflict(err) && owner == ours {
		// Some take a renewal for a conflict.
		if err := u.conn.DeletePortMappingCtx(ctx, "", external, "UDP"); err != nil {
			return err
		}
		err = u.ask(ctx, external, lifetime)
	}
	return err
}

// ask asks for the mapping, for ever where the gateway knows nothing else.
func (u *upnp) ask(ctx context.Context, external uint16, lifetime time.Duration) error {
	before := u.mapped
	u.mapped = external // also where the answer is lost
	err := u.askOnce(ctx, external, lifetime)
	if code := faultCode(err); !u.permanent && (code == faultPermanentOnly || code == faultInvalidArgs) {
		u.permanent = true
		if err = u.askOnce(ctx, external, lifetime); err != nil {
			u.permanent = false
		}
	}
	if faultCode(err) != 0 {
		u.mapped = before
	}
	return err
}

func (u *upnp) askOnce(ctx context.Context, external uint16, lifetime time.Duration) error {
	if u.permanent {
		lifetime = 0
	}
	return u.conn.AddPortMappingCtx(ctx, "", external, "UDP", u.port, u.gateway.Local.String(), true,
		description, uint32(lifetime/time.Second))
}

// ownership is whose mapping an external port is.
type ownership int

const (
	nobodys ownership = iota
	ours
	others
)

// owner tells whose an external port is, and for how long, 0 being for ever.
func (u *upnp) owner(ctx context.Context, external uint16) (ownership, time.Duration, error) {
	port, client, _, _, seconds, err := u.conn.GetSpecificPortMappingEntryCtx(ctx, "", external, "UDP")
	switch {
	case faultCode(err) == faultNoSuchEntry:
		return nobodys, 0, nil
	case err != nil:
		return nobodys, 0, err
	}
	// Some name the host instead, which tells us nothing.
	addr, err := netip.ParseAddr(client)
	switch {
	case err != nil:
		return nobodys, 0, fmt.Errorf("whose the mapping is: %w", err)
	case port == u.port && addr == u.gateway.Local:
		return ours, time.Duration(seconds) * time.Second, nil
	}
	return others, 0, nil
}

func (u *upnp) check(ctx context.Context) (netip.Addr, error) {
	addr, err := u.external(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	if u.blind {
		return addr, nil
	}
	owner, _, err := u.owner(ctx, u.mapped)
	if err == nil && owner != ours {
		u.mapped = 0
		return netip.Addr{}, fmt.Errorf("%w: the external port is not forwarded to us any more", errLost)
	}
	return addr, nil
}

// remove tries until ctx is done: a permanent mapping would stay for good.
func (u *upnp) remove(ctx context.Context) error {
	if u.mapped == 0 {
		return nil
	}
	if !u.blind {
		// It may be another host's by now, and some gateways would not mind.
		if owner, _, err := u.owner(ctx, u.mapped); err == nil && owner == others {
			u.mapped = 0
			return nil
		}
	}
	for {
		err := u.conn.DeletePortMappingCtx(ctx, "", u.mapped, "UDP")
		if err == nil || faultCode(err) == faultNoSuchEntry {
			u.mapped = 0
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("take the mapping away: %w", faultWords(err))
		case <-time.After(removePause):
		}
	}
}

// external finds the service at first, and asks it for its address.
func (u *upnp) external(ctx context.Context) (netip.Addr, error) {
	if u.conn != nil {
		return externalOf(ctx, u.conn)
	}
	locations, err := search(ctx, u.gateway)
	if err != nil {
		return netip.Addr{}, err
	}
	var errs []error
	for _, l := range locations {
		conns, err := u.gateway.describe(ctx, l)
		errs = append(errs, err)
		for _, c := range conns[:min(len(conns), maxConnections)] {
			addr, err := externalOf(ctx, c)
			if err == nil {
				u.conn = c
				return addr, nil
			}
			errs = append(errs, err)
		}
	}
	return netip.Addr{}, errors.Join(errs...)
}

func externalOf(ctx context.Context, c connection) (netip.Addr, error) {
	text, err := c.GetExternalIPAddressCtx(ctx)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask for the external address: %w", faultWords(err))
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() || addr.IsUnspecified() {
		return netip.Addr{}, errNoExternal
	}
	return addr, nil
}

// faultCode is the error code that the gateway answered with; 0: it did not.
func faultCode(err error) int {
	if f, ok := errors.AsType[*soap.SOAPFaultError](err); ok {
		return cmp.Or(f.Detail.UPnPError.Errorcode, -1)
	}
	return 0
}

// faultWords makes an answer with an error readable.
func faultWords(err error) error {
	f, ok := errors.AsType[*soap.SOAPFaultError](err)
	if !ok {
		return err
	}
	e := f.Detail.UPnPError
	switch e.Errorcode {
	case faultConflict, faultOtherUse:
		return fmt.Errorf("the gateway says that the external port is taken (%d)", e.Errorcode)
	case 0:
		return fmt.Errorf("the gateway refuses: %s", f.FaultString)
	}
	return fmt.Errorf("the gateway refuses: %d %s", e.Errorcode, e.ErrorDescription)
}
