package expose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the name of our tables: it tags what is in them.
const tableName = "meshd"

// table, chain: what our tables are to hold.
type (
	table struct {
		family nftables.TableFamily
		chains []chain
	}
	chain struct {
		name     string
		kind     nftables.ChainType
		hook     *nftables.ChainHook
		priority int32
		device   string // of a hook at a device
		rules    []rule
	}
)

// afterDocker is the priority of our NAT: after that of Docker and of the user,
// so that theirs decide what theirs concerns.
const afterDocker = 110

// The addresses that are never masqueraded as destinations.
var (
	multicast4 = netip.MustParsePrefix("224.0.0.0/4")
	multicast6 = netip.MustParsePrefix("ff00::/8")
)

// plan is what the rules depend on.
type plan struct {
	bridge       string
	tcp, udp     []uint16
	routeBetween bool
	exposed      []Exposed
	theirs       []netip.Prefix // of exposed: those that were on the bridge before
	dockers      []string       // bridges whose ports Docker publishes
	bridgeThere  bool
	// namesBridged: the kernel names the device that a routed packet came in by
	// after routing too, so that bridged frames, where it names none, can be told
	// apart (Linux 5.7).
	namesBridged bool
}

// tables lists our tables.
func (p plan) tables() []table {
	inet := table{family: nftables.TableFamilyINet, chains: []chain{p.input()}}
	if nat := p.postrouting(); len(nat.rules) > 0 {
		inet.chains = append(inet.chains, nat)
	}
	if forward := p.forward(); len(forward.rules) > 0 {
		inet.chains = append(inet.chains, forward)
	}
	all := []table{inet}
	if ingress := p.ingress(); p.bridgeThere && len(ingress.rules) > 0 {
		all = append(all, table{family: nftables.TableFamilyNetdev, chains: []chain{ingress}})
	}
	return all
}

// input guards the host's ports from what comes out of the bridge, and counts
// what the exposed addresses get. Its comments tell a later run which addresses
// are ours, where the kernel's addresses cannot be tagged.
func (p plan) input() chain {
	c := chain{name: "input", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookInput}
	c.rules = append(c.rules, newRule("", notFrom(p.bridge), leave))
	for _, n := range p.tcp {
		c.rules = append(c.rules, newRule("guard", port(unix.IPPROTO_TCP, n), drop))
	}
	for _, n := range p.udp {
		c.rules = append(c.rules, newRule("guard", port(unix.IPPROTO_UDP, n), drop))
	}
	for _, x := range p.exposed {
		comment := exposedComment + x.Address.String()
		if slices.Contains(p.theirs, x.Address) {
			comment = "not by meshd: " + x.Address.String()
		}
		one := netip.PrefixFrom(x.Address.Addr(), x.Address.Addr().BitLen())
		c.rules = append(c.rules, newRule(comment, family(one), destination(expr.CmpOpEq, one), count))
	}
	return c
}

// postrouting masquerades both ways, once per subnet. Frames between two ports of
// the bridge come here too where br_netfilter is loaded; they are left as they
// are.
func (p plan) postrouting() chain {
	c := chain{name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, priority: afterDocker}
	for _, s := range p.subnets(func(x Exposed) bool { return x.Masquerade }) {
		if len(c.rules) == 0 && p.namesBridged {
			c.rules = append(c.rules, newRule("bridged", to(p.bridge), fromNowhere(), kind(true, expr.CmpOpNeq, unix.RTN_LOCAL), leave))
		}
		multicast := multicast4
		if s.Addr().Is6() {
			multicast = multicast6
		}
		c.rules = append(c.rules,
			newRule("", family(s), to(p.bridge), destination(expr.CmpOpEq, s), source(expr.CmpOpNeq, s), masquerade),
			newRule("", family(s), source(expr.CmpOpEq, s), notTo(p.bridge), notTo("lo"), destination(expr.CmpOpNeq, multicast), masquerade))
	}
	return c
}

// forward keeps Docker's unpublished ports unpublished: up to version 27 nothing
// but FORWARD's policy guards them, and from exposed subnets we let pass.
func (p plan) forward() chain {
	c := chain{name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward}
	if len(p.exposed) == 0 {
		return c
	}
	for _, d := range p.dockers {
		c.rules = append(c.rules,
			newRule("published", from(p.bridge), to(d), isPublished, leave),
			newRule("not published", from(p.bridge), to(d), isNew, drop))
	}
	return c
}

// ingress sees what the bridge hands to the host, and nothing that it only
// bridges: what would be routed back into an exposed subnet is dropped.
func (p plan) ingress() chain {
	c := chain{name: "ingress", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookIngress, device: p.bridge}
	if p.routeBetween {
		return c
	}
	for _, s := range p.subnets(func(Exposed) bool { return true }) {
		c.rules = append(c.rules, newRule(fmt.Sprintf("no route from %s", p.bridge),
			etherType(s), destination(expr.CmpOpEq, s), kind(false, expr.CmpOpEq, unix.RTN_UNICAST), drop))
	}
	return c
}

// subnets lists the subnets of those exposed that are meant, each once.
func (p plan) subnets(meant func(Exposed) bool) (list []netip.Prefix) {
	for _, x := range p.exposed {
		if s := x.Address.Masked(); meant(x) && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
