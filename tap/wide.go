package tap

import "fmt"

// WidePort is a port of the bridge whose MTU is above the bridge's: what it sends
// that is larger than the bridge's MTU is lost on the bridge without a word.
type WidePort struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"` // bytes
}

// WidePorts lists such ports, our own left out. It may be called concurrently.
func (p *Port) WidePorts() ([]WidePort, error) {
	bridge, err := p.nl.LinkByName(p.bridge)
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", p.bridge, err)
	}
	links, err := p.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var wide []WidePort
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex == bridge.Attrs().Index && a.Name != p.device && a.MTU > p.mtu {
			wide = append(wide, WidePort{a.Name, a.MTU})
		}
	}
	return wide, nil
}

// Check says what keeps this process from opening a port, before anything is
// opened: ErrPrivilege, ErrNoTun.
func Check() error { return checkHost() }
