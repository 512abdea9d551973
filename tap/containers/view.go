package containers

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// View is all that a Keeper keeps, and how it is.
type View struct {
	Containers []ContainerView `json:"containers"`
	Exposed    []ExposureView  `json:"exposed"`
	Published  []PublishedView `json:"published"`
	MAC        string          `json:"mac"`      // of the bridge, which is the host's; empty: there is none
	Problems   []string        `json:"problems"` // in words, with the remedy
}

// Unseen is the problem of a container that was attached before the daemon started, until
// it is looked for.
const Unseen = "it was not looked for yet"

// ContainerView is a container that was attached.
type ContainerView struct {
	Engine    string         `json:"engine"` // empty: a plain namespace
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	NetNS     string         `json:"netns,omitempty"`
	Attached  bool           `json:"attached"` // false: it does not run, or there is a problem
	Stopped   bool           `json:"stopped"`  // it does not run, and is attached when it does again
	Problem   string         `json:"problem,omitempty"`
	Device    string         `json:"device,omitempty"` // inside the container
	MAC       string         `json:"mac,omitempty"`
	MTU       int            `json:"mtu,omitempty"` // bytes
	Addresses []netip.Prefix `json:"addresses"`
}

// ExposureView is an address of this host on the overlay.
type ExposureView struct {
	Address    netip.Prefix `json:"address"`
	Masquerade bool         `json:"masquerade"`
	Auto       bool         `json:"auto"` // taken for a published port
}

// PublishedView is a port of this host that leads to a service on the overlay.
type PublishedView struct {
	Spec        string       `json:"spec"`
	Listen      []string     `json:"listen"`            // addresses with port; empty: a problem
	Target      string       `json:"target"`            // address with port; empty: the container does not run
	From        netip.Prefix `json:"from"`              // this host's address on the overlay
	Problem     string       `json:"problem,omitempty"` // why nobody listens, or what fails
	Connections uint64       `json:"connections"`       // ever, or UDP clients
	Active      int          `json:"active"`
	RxBytes     uint64       `json:"rx_bytes"` // from clients
	TxBytes     uint64       `json:"tx_bytes"` // to clients
}

// newsFor is how long the last error of a published port is shown.
const newsFor = time.Minute

// View returns all that is kept.
func (k *Keeper) View() View {
	v := View{Containers: []ContainerView{}, Exposed: []ExposureView{}, Published: []PublishedView{}, Problems: []string{}}
	k.mu.Lock()
	for _, e := range k.entries {
		if len(e.want.Addresses) > 0 {
			v.Containers = append(v.Containers, e.view())
		}
	}
	for _, e := range k.exposed {
		v.Exposed = append(v.Exposed, ExposureView(e))
	}
	if k.trouble != "" {
		v.Problems = append(v.Problems, k.trouble)
	}
	ports := slices.Collect(maps.Values(k.ports))
	k.mu.Unlock()
	have, _ := addressesOf(k.Bridge) // none where they cannot be listed
	for _, p := range ports {
		v.Published = append(v.Published, k.portView(p, have))
	}
	v.MAC = hostMAC(k.Bridge)
	v.Problems = append(v.Problems, k.Exposer.Problems()...)
	slices.SortFunc(v.Containers, func(a, b ContainerView) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID), cmp.Compare(a.NetNS, b.NetNS))
	})
	slices.SortFunc(v.Exposed, func(a, b ExposureView) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(v.Published, func(a, b PublishedView) int { return cmp.Compare(a.Spec, b.Spec) })
	return v
}

// view shows an entry. Needs Keeper.mu.
func (e *entry) view() ContainerView {
	v := ContainerView{
		Engine: e.want.Engine, ID: e.want.ID, Name: e.want.Name, NetNS: e.want.NetNS,
		Attached: e.iface != nil, Stopped: e.stopped, Problem: e.problem, Addresses: e.want.Addresses,
	}
	if e.iface != nil {
		v.Device, v.MAC, v.MTU = e.iface.Device, e.iface.MAC.String(), e.iface.MTU
	}
	return v
}

// portView shows a published port of a host that has these addresses on the overlay.
func (k *Keeper) portView(p *port, have []netip.Prefix) PublishedView {
	v := PublishedView{Spec: p.want.Spec.String(), Listen: []string{}}
	k.mu.Lock()
	proxy := p.proxy
	v.Problem = p.problem
	k.mu.Unlock()
	if to, _, err := k.targetOf(p.want); err == nil {
		v.Target, v.From = netip.AddrPortFrom(to, p.want.Spec.TargetPort).String(), from(have, to)
	} else if v.Problem == "" {
		v.Problem = err.Error()
	}
	if proxy == nil {
		return v
	}
	for _, a := range proxy.Addrs() {
		v.Listen = append(v.Listen, a.String())
	}
	s := proxy.Stats()
	v.Connections, v.Active, v.RxBytes, v.TxBytes = s.Connections, s.Active, s.BytesToTarget, s.BytesToClient
	if v.Problem == "" && time.Since(s.LastErrorAt) < newsFor {
		v.Problem = s.LastError
	}
	return v
}
