package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NATKind names what a NAT does with UDP. The package nattest has NATs of the
// same names in memory; a test shows that they are alike, in the classes of
// RFC 4787.
type NATKind string

// The kinds. All but NATNone translate the TCP of hosts that dial out, and let
// none in.
const (
	// NATNone is a plain router.
	NATNone NATKind = "none"
	// NATFullCone has endpoint-independent mapping and filtering.
	NATFullCone NATKind = "full-cone"
	// NATAddressRestricted has endpoint-independent mapping and address-dependent
	// filtering.
	NATAddressRestricted NATKind = "address-restricted"
	// NATPortRestricted is Linux with masquerade and a firewall: the port is kept,
	// filtering depends on address and port.
	NATPortRestricted NATKind = "port-restricted"
	// NATPortRestrictedOpen is Linux with masquerade alone: a datagram that nobody
	// asked for goes to the router itself, is remembered, and takes the port away
	// from a host that sends to the same place later.
	NATPortRestrictedOpen NATKind = "port-restricted-open"
	// NATSymmetric gives each destination another port, by chance.
	NATSymmetric NATKind = "symmetric"
	// NATDouble is a port-restricted NAT behind another: not one router but two,
	// see Internet.
	NATDouble NATKind = "double"
	// NATShortLived is NATPortRestricted that forgets after 10 s.
	NATShortLived NATKind = "short-lived"
	// NATUDPBlocked passes no UDP at all.
	NATUDPBlocked NATKind = "udp-blocked"
)

// NATKinds lists the kinds.
func NATKinds() []NATKind {
	return []NATKind{
		NATNone, NATFullCone, NATAddressRestricted, NATPortRestricted, NATPortRestrictedOpen,
		NATSymmetric, NATDouble, NATShortLived, NATUDPBlocked,
	}
}

// The interfaces of a NAT.
const (
	NATInside  = "inside"
	NATOutside = "outside"
)

// ErrNoNFT says that the program nft is missing, which NATs need.
var ErrNoNFT = errors.New("nft is not installed (Debian package nftables)")

// NAT is a router that translates IPv4 between its interfaces NATInside and
// NATOutside, and routes IPv6. Its methods may be called concurrently.
type NAT struct {
	*Namespace
	rules string
}

// NAT adds a router of a kind; its interfaces are connected by the caller:
//
//	host ── NATInside  NAT  NATOutside ── elsewhere
//
// The error wraps ErrNoNFT where nft is missing.
func (l *Lab) NAT(name string, kind NATKind) (*NAT, error) { return l.gateway(name, kind, false) }

// gateway is NAT with a choice: whether IPv6 from outside passes only as an
// answer.
func (l *Lab) gateway(name string, kind NATKind, firewall6 bool) (*NAT, error) {
	rules, err := natRules(kind, firewall6)
	if err != nil {
		return nil, err
	}
	n, err := l.Router(name)
	if err != nil {
		return nil, err
	}
	t := &NAT{Namespace: n, rules: rules}
	if err := t.load(rules); err != nil {
		return nil, err
	}
	return t, t.limit(kind)
}

// limit sets how long a mapping lives that was answered, and one that was not.
// The kernel's defaults, but for NATShortLived.
func (t *NAT) limit(kind NATKind) error {
	if t.rules == "" {
		return nil // the kernel need not have connection tracking
	}
	first, answered := "30", "120"
	if kind == NATShortLived {
		first, answered = "10", "10"
	}
	return errors.Join(
		t.Sysctl("net.netfilter.nf_conntrack_udp_timeout", first),
		t.Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", answered),
	)
}

// Reboot makes the NAT forget all mappings, of TCP too. Nothing passes meanwhile.
func (t *NAT) Reboot() error {
	if t.rules == "" {
		return nil
	}
	// What came in between the two steps would be remembered in the old way.
	if err := t.load(natStopped); err != nil {
		return err
	}
	if err := t.forget(); err != nil {
		return fmt.Errorf("forget the mappings of %s: %w", t.Name, err)
	}
	return t.load(t.rules)
}

// forget empties the connection tracking table.
func (t *NAT) forget() error {
	return t.Do(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer nl.Close()
		return nl.ConntrackTableFlush(netlink.ConntrackTable)
	})
}

// load replaces the NAT's table by these rules at once.
func (t *NAT) load(rules string) error {
	if rules == "" {
		return nil
	}
	path, err := nft()
	if err != nil {
		return err
	}
	// A table that is not there cannot be deleted, one that is can be added.
	head := fmt.Sprintf("add table inet %s\ndelete table inet %[1]s\n", natTable)
	cmd := exec.Command(path, "-f", "-")
	cmd.Stdin = strings.NewReader(head + rules)
	var out []byte
	err = t.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return fmt.Errorf("set rules with nft in %s: %w: %s", t.Name, err, out)
	}
	return nil
}

// nft is where the program is.
func nft() (string, error) {
	// Root's own programs are not on everybody's PATH.
	for _, name := range []string{"nft", "/usr/sbin/nft", "/sbin/nft"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoNFT
}

// natTable holds all rules of a NAT.
const natTable = "meshd-lab-nat"

// natStopped is the table of a NAT that is off. The priority is before that of
// connection tracking, which notes nothing then.
const natStopped = `
table inet ` + natTable + ` {
	chain stop { type filter hook prerouting priority -400; policy drop; }
}`

// The parts of the tables. Chains of type nat see the first packet of a
// conversation only, the others see all.
const (
	// masquerade translates as Linux does. It gives a host one port for all
	// destinations as long as it can.
	masquerade = `
	chain outward {
		type nat hook postrouting priority srcnat;
		oifname "outside" meta nfproto ipv4 masquerade
	}`

	masqueradeByChance = `
	chain outward {
		type nat hook postrouting priority srcnat;
		oifname "outside" meta nfproto ipv4 masquerade fully-random
	}`

	// closed lets nothing from outside in that nobody inside asked for. What is
	// dropped is not remembered.
	closed = `
	chain local {
		type filter hook input priority filter;
		iifname "outside" meta nfproto ipv4 ct state new drop
	}`

	// private keeps out what is addressed to the inside's own addresses: it is not
	// translated.
	private = `
	chain private {
		type filter hook forward priority filter;
		iifname "outside" meta nfproto ipv4 ct state new ct status & dnat != dnat drop
	}`

	// cone notes which port a host has, keeps it for all destinations, and sends
	// on what comes to it from anywhere (%[1]s is empty) or from contacted
	// addresses. The port is the host's own unless another host has it already.
	cone = `
	map ports { type ipv4_addr . inet_service : ipv4_addr . inet_service; size 65535; flags dynamic,timeout; }
	map hosts { type inet_service : ipv4_addr . inet_service; size 65535; flags dynamic,timeout; }
	set taken { type inet_service; size 65535; flags dynamic,timeout; }
	set contacted { type ipv4_addr . inet_service; size 65535; flags dynamic,timeout; }
	chain outward {
		type nat hook postrouting priority srcnat;
		oifname "outside" snat ip to ip saddr . udp sport map @ports
		oifname "outside" meta nfproto ipv4 udp sport @taken masquerade random
		oifname "outside" meta nfproto ipv4 masquerade
	}
	chain inward {
		type nat hook prerouting priority dstnat;
		iifname "outside" %[1]s dnat ip to udp dport map @hosts
	}
	chain note {
		type filter hook postrouting priority srcnat + 100;
		oifname "outside" meta nfproto ipv4 jump noted
	}
	chain noted {
		meta l4proto udp ct direction original update @ports { ct original ip saddr . ct original proto-src timeout 120s : ip saddr . udp sport }
		meta l4proto udp ct direction original update @hosts { udp sport timeout 120s : ct original ip saddr . ct original proto-src }
		meta l4proto udp ct direction reply update @ports { ct reply ip saddr . ct reply proto-src timeout 120s : ip saddr . udp sport }
		meta l4proto udp ct direction reply update @hosts { udp sport timeout 120s : ct reply ip saddr . ct reply proto-src }
		update @taken { udp sport timeout 120s }
		update @contacted { ip daddr . udp sport timeout 120s }
	}`

	noUDP = `
	chain blocked {
		type filter hook forward priority filter;
		meta l4proto udp drop
	}`

	answers6 = `
	chain answers6 {
		type filter hook forward priority filter;
		iifname "outside" meta nfproto ipv6 ct state new drop
	}`
)

// natRules is the table of a kind; "" if it needs none.
func natRules(kind NATKind, firewall6 bool) (string, error) {
	var parts []string
	switch kind {
	case NATNone:
	case NATFullCone:
		parts = []string{fmt.Sprintf(cone, ""), closed, private}
	case NATAddressRestricted:
		parts = []string{fmt.Sprintf(cone, "ip saddr . udp dport @contacted"), closed, private}
	case NATPortRestricted, NATShortLived:
		parts = []string{masquerade, closed, private}
	case NATPortRestrictedOpen:
		parts = []string{masquerade, private}
	case NATSymmetric:
		parts = []string{masqueradeByChance, closed, private}
	case NATUDPBlocked:
		parts = []string{masquerade, closed, private, noUDP}
	case NATDouble:
		return "", fmt.Errorf("NAT %s is two routers, not one", kind)
	default:
		return "", fmt.Errorf("NAT %q is not one of %q", kind, NATKinds())
	}
	if firewall6 {
		parts = append(parts, answers6)
	}
	if len(parts) == 0 {
		return "", nil
	}
	return strings.Join(slices.Concat([]string{"table inet " + natTable + " {"}, parts, []string{"\n}\n"}), ""), nil
}
