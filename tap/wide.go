package tap

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
)

// WidePort is a port of the bridge whose MTU is above the bridge's: what it sends
// that is larger than the bridge's MTU is lost on the bridge without a word.
type WidePort struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"` // bytes
}

// WidePorts lists such ports, our own left out, and that of a Weave router, behind which
// no container is. It may be called concurrently.
func (p *Port) WidePorts() ([]WidePort, error) {
	others, err := p.otherPorts()
	var wide []WidePort
	for _, l := range others {
		if a := l.Attrs(); a.MTU > p.mtu && a.Name != weavePort {
			wide = append(wide, WidePort{a.Name, a.MTU})
		}
	}
	return wide, err
}

// weavePort is the port that Weave's router has on the bridge. Its other end leads to the
// router, or to the router's fast datapath in the kernel. The router leaves both.
const weavePort = "vethwe-bridge"

// WeavePort is the port of a Weave router on the bridge, "" where there is none. It may
// be called concurrently.
func (p *Port) WeavePort() (string, error) {
	others, err := p.otherPorts()
	if slices.ContainsFunc(others, func(l netlink.Link) bool { return l.Attrs().Name == weavePort }) {
		return weavePort, err
	}
	return "", err
}

// otherPorts are the ports of the bridge but ours.
func (p *Port) otherPorts() ([]netlink.Link, error) {
	bridge, err := p.nl.LinkByName(p.bridge)
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", p.bridge, err)
	}
	links, err := p.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool {
		a := l.Attrs()
		return a.MasterIndex != bridge.Attrs().Index || a.Name == p.device
	}), nil
}

// Check says what keeps this process from opening a port, before anything is
// opened: ErrPrivilege, ErrNoTun.
func Check() error { return checkHost() }
