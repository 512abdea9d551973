package containers

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"meshd/internal/engine"
	"meshd/internal/subnet"
	"meshd/tap/publish"
)

// Attachment is a container on the overlay, as it was asked for.
type Attachment struct {
	Engine           string         `json:"engine"`          // what it is called; empty: a plain namespace
	At               string         `json:"at,omitempty"`    // where the engine is, see engine.Container
	ID               string         `json:"id,omitempty"`    // of the engine
	Name             string         `json:"name,omitempty"`  // for people
	NetNS            string         `json:"netns,omitempty"` // path of a plain namespace
	Addresses        []netip.Prefix `json:"addresses"`       // of the interface, each with its subnet's length
	NoMulticastRoute bool           `json:"no_multicast_route,omitempty"`
}

// key tells attachments apart, and lasts as long as the container.
func (a Attachment) key() string {
	if a.ID != "" {
		return cmp.Or(a.At, a.Engine) + ":" + a.ID
	}
	return "netns:" + a.NetNS
}

func attachmentOf(c engine.Container) Attachment {
	return Attachment{Engine: c.Engine, At: c.At, ID: c.ID, Name: c.Name, NetNS: c.NetNS}
}

// container is what the engines find again.
func (a Attachment) container() engine.Container {
	return engine.Container{Engine: a.Engine, At: a.At, ID: a.ID, Name: a.Name, NetNS: a.NetNS}
}

// check says what is wrong with a record.
func (a Attachment) check() error {
	switch {
	case a.ID == "" && a.NetNS == "":
		return errors.New("it names no container")
	case len(a.Addresses) == 0 || len(a.Addresses) > maxAddresses:
		return fmt.Errorf("it has %d addresses", len(a.Addresses))
	}
	return subnet.CheckAll(a.Addresses)
}

// String is what people call the container.
func (a Attachment) String() string {
	switch {
	case a.Name != "":
		return "container " + a.Name
	case a.ID != "":
		return "container " + a.ID[:min(12, len(a.ID))]
	}
	return "namespace " + a.NetNS
}

// called reports whether people call the container so: by its name, its id, or the begin
// of that, with its engine or without.
func (a Attachment) called(what string) bool {
	if i := strings.LastIndex(what, ":"); i > 0 && a.ID != "" && engine.Fits(what[:i], a.Engine) {
		what = what[i+1:]
	}
	if a.ID == "" {
		return what == a.NetNS || a.Name != "" && strings.TrimPrefix(what, "netns:") == a.Name
	}
	return what == a.Name || len(what) >= 3 && strings.HasPrefix(a.ID, what)
}

// with is the attachment with more addresses.
func (a Attachment) with(more []netip.Prefix) Attachment {
	a.Addresses = slices.Clone(a.Addresses)
	for _, p := range more {
		if !slices.Contains(a.Addresses, p) {
			a.Addresses = append(a.Addresses, p)
		}
	}
	return a
}

// Exposure is an address of this host on the overlay.
type Exposure struct {
	Address    netip.Prefix `json:"prefix"` // with its subnet's length
	Masquerade bool         `json:"masquerade"`
	Auto       bool         `json:"auto,omitempty"` // taken for a published port, and given back with the last one
}

func (e Exposure) key() string  { return e.Address.Addr().String() }
func (e Exposure) check() error { return subnet.Check(e.Address) }

// Publication is a port of this host that leads to a service on the overlay.
type Publication struct {
	Spec      publish.Spec `json:"spec"`
	Container string       `json:"container,omitempty"` // key of the attachment that is the target; empty: an address is
}

func (p Publication) key() string { return p.Spec.HostPort.String() }

func (p Publication) check() error {
	if _, isIP := p.Spec.TargetIP(); isIP != (p.Container == "") {
		return errors.New("its target is not what it says")
	}
	return nil
}

// addrs are the addresses alone.
func addrs(addresses []netip.Prefix) []netip.Addr {
	out := make([]netip.Addr, len(addresses))
	for i, p := range addresses {
		out[i] = p.Addr()
	}
	return out
}

// ParsePrefix reads an address with its subnet's length as users write it: ADDRESS/BITS,
// or ip:ADDRESS/BITS as weave has it.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimPrefix(s, "ip:"))
	if err == nil {
		return p, subnet.Check(p)
	}
	if a, e := netip.ParseAddr(strings.TrimPrefix(s, "ip:")); e == nil && a.Zone() == "" {
		return p, fmt.Errorf("%.60q has no subnet: write it with its length, such as %s/%d", s, a, subnet.UsualBits(a))
	}
	return p, fmt.Errorf("%.60q is not an address with its subnet's length: write it as 10.32.0.1/24 or fd00:32::1/64", s)
}
