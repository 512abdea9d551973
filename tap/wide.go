package tap

import (
	"fmt"

	"meshd/internal/dump"
)

// WidePort is a port of the bridge whose MTU is above the bridge's: what it sends
// that is larger than the bridge's MTU is lost on the bridge without a word.
type WidePort struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"` // bytes
}

// weavePort is the port that Weave's router has on the bridge. Its other end leads to the
// router, or to the router's fast datapath in the kernel. The router leaves both.
const weavePort = "vethwe-bridge"

// OtherPorts looks at the ports of the bridge but ours: wide ones, and weave, that of a
// Weave router, behind which no container is; "" where there is none. It may be called
// concurrently.
func (p *Port) OtherPorts() (wide []WidePort, weave string, err error) {
	bridge, err := p.nl.LinkByName(p.bridge)
	if err != nil {
		return nil, "", fmt.Errorf("find bridge %s: %w", p.bridge, err)
	}
	links, err := dump.Whole(p.nl.LinkList)
	if err != nil {
		return nil, "", fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		switch a := l.Attrs(); {
		case a.MasterIndex != bridge.Attrs().Index || a.Name == p.device:
		case a.Name == weavePort:
			weave = a.Name
		case a.MTU > p.mtu:
			wide = append(wide, WidePort{a.Name, a.MTU})
		}
	}
	return wide, weave, nil
}

// Check says what keeps this process from opening a port, before anything is
// opened: ErrPrivilege, ErrNoTun.
func Check() error { return checkHost() }
