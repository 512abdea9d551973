package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"meshd/config"
	"meshd/internal/frame"
)

// What a user calls a peer: its name, its nickname, or an address.

// findPeer returns the peer that arg names: by name, by address of a connection,
// or by nickname. nil: none. More than one is an error that lists them.
func findPeer(s *Status, arg string) (*Peer, error) {
	name, isName := asName(arg)
	var byNick []*Peer
	for i := range s.Peers {
		p := &s.Peers[i]
		if isName && p.Name == name {
			return p, nil
		}
		if p.NickName == arg {
			byNick = append(byNick, p)
		}
	}
	switch {
	case isName:
		return nil, nil
	case len(byNick) > 1:
		return nil, ambiguous(arg, byNick)
	case len(byNick) == 1:
		return byNick[0], nil
	}
	return byAddress(s, arg)
}

// asName reads the full MAC form; abbreviations with :: would be IPv6 addresses.
func asName(arg string) (string, bool) {
	if strings.Contains(arg, "::") {
		return "", false
	}
	n, err := frame.ParsePeerName(arg)
	return n.String(), err == nil
}

func ambiguous(arg string, peers []*Peer) error {
	names := each(peers, func(p *Peer) string { return p.Name })
	return fmt.Errorf("%q is the nickname of %d peers: %s; use a name", arg, len(peers), strings.Join(names, ", "))
}

// byAddress finds the peer that somebody has a connection to at that address;
// without a port any will do.
func byAddress(s *Status, arg string) (*Peer, error) {
	if !isAddress(arg) {
		return nil, nil
	}
	found := map[string]bool{}
	for i := range s.Peers {
		for _, c := range s.Peers[i].Connections {
			if sameAddress(arg, c.Address, c.Carrier) {
				found[c.Name] = true
			}
		}
	}
	var peers []*Peer
	for i := range s.Peers {
		if found[s.Peers[i].Name] {
			peers = append(peers, &s.Peers[i])
		}
	}
	switch len(peers) {
	case 0:
		return nil, nil
	case 1:
		return peers[0], nil
	}
	names := each(peers, func(p *Peer) string { return p.Name + "(" + p.NickName + ")" })
	return nil, fmt.Errorf("%s is an address of %d peers: %s; use a name", arg, len(peers), strings.Join(names, ", "))
}

// isAddress reports whether arg is an IP address, with or without carrier and port.
func isAddress(arg string) bool {
	p, err := config.ParsePeer(arg)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(p.Host)
	return err == nil
}

// sameAddress compares what a user wrote with an ip:port, of a carrier.
func sameAddress(arg, address, carrier string) bool {
	if arg == address {
		return true
	}
	p, err := config.ParsePeer(arg)
	if err != nil || p.Carrier != "" && p.Carrier != carrierOr(carrier) {
		return false
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(p.Host)
	return err == nil && addr == ap.Addr().Unmap() && (p.Port == 0 || p.Port == ap.Port())
}

// carrierOr is a carrier, TCP where none is said.
func carrierOr(carrier string) string { return cmp.Or(carrier, config.CarrierTCP) }

// withCarrier is an ip:port in the form of a target: quic://10.0.0.2:6785 where it is
// not for TCP.
func withCarrier(carrier, address string) string {
	if carrierOr(carrier) == config.CarrierTCP {
		return address
	}
	return carrier + "://" + address
}

// connectTargets turns what a user named into targets: a peer of the mesh into
// an address where it listens; everything else must be a peer's address.
func connectTargets(s *Status, args []string) ([]string, error) {
	return resolve(args, func(arg string) (string, error) {
		if isAddress(arg) {
			return arg, nil
		}
		p, err := findPeer(s, arg)
		if err != nil {
			return "", err
		}
		if p != nil {
			if p.Name == s.Name {
				return "", fmt.Errorf("%s is this peer itself", arg)
			}
			if address := listenAddress(s, p.Name); address != "" {
				return address, nil
			}
		}
		if _, isName := asName(arg); isName {
			return "", fmt.Errorf("no address of a peer %s is known here: give one", arg)
		}
		switch _, err := config.ParsePeer(arg); {
		case err != nil && strings.Contains(arg, "://"): // no nickname
			return "", fmt.Errorf("%q %w: write host[:port], tcp://host[:port] or quic://host[:port]", arg, err)
		case err != nil:
			return "", fmt.Errorf("%q %w, and no peer has that name or nickname", arg, err)
		}
		return arg, nil
	})
}

// forgetTargets turns what a user named into targets that are configured.
func forgetTargets(s *Status, args []string) ([]string, error) {
	return resolve(args, func(arg string) (string, error) {
		if slices.ContainsFunc(s.Targets, func(t Target) bool { return t.Target == arg }) {
			return arg, nil
		}
		for _, t := range s.Targets {
			carrier := carrierOf(t.Target)
			if named := carrierOf(arg); named != "" && named != carrier {
				continue
			}
			if slices.ContainsFunc(t.Addresses, func(a string) bool { return sameAddress(arg, a, carrier) }) {
				return t.Target, nil
			}
		}
		p, err := findPeer(s, arg)
		if err != nil {
			return "", err
		}
		if p != nil {
			if t := targetOf(s, p.Name); t != "" {
				return t, nil
			}
		}
		return "", fmt.Errorf("%s is not a configured target; there are: %s",
			arg, orNone(each(s.Targets, func(t Target) string { return t.Target })))
	})
}

// resolve maps all of args, and joins nothing: the first fault is the answer.
func resolve(args []string, f func(string) (string, error)) ([]string, error) {
	out := make([]string, 0, len(args))
	for _, arg := range args {
		v, err := f(arg)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// carrierOf is the carrier that a target names; empty: none.
func carrierOf(target string) string {
	p, _ := config.ParsePeer(target)
	return p.Carrier
}

// listenAddress is where a peer takes connections, as far as its neighbours
// show: where one of them has dialled it, ourselves first; else the IP that it
// connects from, with our own control port (weave protocol section 7.1). Where a
// QUIC connection comes from it is listened too.
func listenAddress(s *Status, name string) string {
	var dialled, from string
	note := func(carrier, address string, outbound bool) {
		quic := carrier == config.CarrierQUIC
		if (outbound || quic) && dialled == "" {
			dialled = withCarrier(carrier, address)
		}
		if host, _, err := net.SplitHostPort(address); !outbound && from == "" && err == nil {
			from = net.JoinHostPort(host, strconv.Itoa(s.ControlPort))
		}
	}
	for i := range s.Connections {
		if c := &s.Connections[i]; c.Name == name {
			note(c.Carrier, c.Address, c.Outbound)
		}
	}
	for i := range s.Peers {
		for _, c := range s.Peers[i].Connections {
			if c.Name == name {
				note(c.Carrier, c.Address, c.Outbound)
			}
		}
	}
	if dialled != "" {
		return dialled
	}
	return from
}

// targetOf finds the target that leads to a peer: by the address of a connection
// to it, or by the IP that it connects from.
func targetOf(s *Status, name string) string {
	for _, whole := range []bool{true, false} {
		for i := range s.Connections {
			c := &s.Connections[i]
			if c.Name != name {
				continue
			}
			for _, t := range s.Targets {
				for _, a := range t.Addresses {
					if a == c.Address || !whole && hostOf(a) == hostOf(c.Address) {
						return t.Target
					}
				}
			}
		}
	}
	return ""
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
