package lab

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
)

// switchBridge is the name of the bridge in a switch.
const switchBridge = "br0"

// Switch is one VLAN: a bridge in a namespace of its own. What is plugged in
// shares one Ethernet.
type Switch struct{ *Namespace }

// Switch adds a switch.
func (l *Lab) Switch(name string) (*Switch, error) {
	n, err := l.Namespace(name)
	if err != nil {
		return nil, err
	}
	return &Switch{n}, n.AddBridge(switchBridge)
}

// Plug connects a namespace with the switch: it gets an interface with this name
// and these addresses.
func (s *Switch) Plug(n *Namespace, ifName string, addrs ...netip.Prefix) error {
	port := s.port(n, ifName)
	if err := Connect(n, ifName, s.Namespace, port); err != nil {
		return err
	}
	if err := s.Join(port, switchBridge); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := n.AddAddress(ifName, a); err != nil {
			return err
		}
	}
	return nil
}

// Mute cuts a plugged namespace off without a word: its interface keeps the
// carrier, and nothing passes either way.
func (s *Switch) Mute(n *Namespace, ifName string) error { return s.Leave(s.port(n, ifName)) }

// Unmute ends Mute.
func (s *Switch) Unmute(n *Namespace, ifName string) error {
	return s.Join(s.port(n, ifName), switchBridge)
}

// port names the switch's end of a cable: fixed for the pair of names, within
// the kernel's 15 bytes.
func (s *Switch) port(n *Namespace, ifName string) string {
	h := fnv.New32a()
	h.Write([]byte(n.Name + "/" + ifName))
	return fmt.Sprintf("p%08x", h.Sum32())
}

// Router adds a namespace that forwards IPv4 and IPv6 between its interfaces.
func (l *Lab) Router(name string) (*Namespace, error) {
	n, err := l.Namespace(name)
	if err != nil {
		return nil, err
	}
	return n, errors.Join(
		n.Sysctl("net.ipv4.ip_forward", "1"),
		n.Sysctl("net.ipv6.conf.all.forwarding", "1"),
	)
}

// ContainerLink is a container's interface on the mesh.
const ContainerLink = "ethwe"

// Attach puts a container's interface ethwe on a bridge of its host, as weave
// and meshd attach containers: MTU as the bridge has, the addresses, and
// multicast routed over it.
func Attach(container, host *Namespace, bridge string, addrs ...netip.Prefix) error {
	b, err := host.Look(bridge)
	if err != nil {
		return fmt.Errorf("attach %s to %s in %s: %w", container.Name, bridge, host.Name, err)
	}
	port := HostPort(container)
	steps := []func() error{
		func() error { return Connect(container, ContainerLink, host, port) },
		func() error { return host.SetMTU(port, b.MTU) },
		func() error { return container.SetMTU(ContainerLink, b.MTU) },
		func() error { return host.Join(port, bridge) },
	}
	for _, a := range addrs {
		steps = append(steps, func() error { return container.AddAddress(ContainerLink, a) })
	}
	steps = append(steps, func() error {
		return container.AddRoute(netip.MustParsePrefix("224.0.0.0/4"), netip.Addr{}, ContainerLink)
	})
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// HostPort names the host's end of an attached container's cable.
func HostPort(container *Namespace) string {
	h := fnv.New32a()
	h.Write([]byte(container.Name))
	return fmt.Sprintf("vethwe%08x", h.Sum32())
}
