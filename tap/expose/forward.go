package expose

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// tag is the comment of our rules in other people's chains.
const tag = "meshd"

// pass is a rule of ours in a FORWARD chain: it accepts what it matches.
type pass struct {
	from, to         string // devices; empty: any
	source, destined netip.Prefix
}

// passes lists the rules for a family: frames between two ports of the bridge
// meet FORWARD where br_netfilter is loaded, exposed subnets always.
func (p plan) passes(ip6 bool) []pass {
	list := []pass{{from: p.bridge, to: p.bridge}}
	for _, s := range p.subnets(func(x Exposed) bool { return x.Address.Addr().Is6() == ip6 }) {
		list = append(list, pass{from: p.bridge, source: s}, pass{to: p.bridge, destined: s})
	}
	return list
}

// rule writes a pass in the expressions that iptables-nft reads and would write.
func (p pass) rule() rule {
	var match []expr.Any
	if p.from != "" {
		match = append(match, from(p.from)...)
	}
	if p.to != "" {
		match = append(match, to(p.to)...)
	}
	if p.source.IsValid() {
		match = append(match, source(expr.CmpOpEq, p.source)...)
	}
	if p.destined.IsValid() {
		match = append(match, destination(expr.CmpOpEq, p.destined)...)
	}
	return newRule(tag, match, accept)
}

// args writes a pass as iptables -S prints it.
func (p pass) args() (args []string) {
	if p.source.IsValid() {
		args = append(args, "-s", p.source.String())
	}
	if p.destined.IsValid() {
		args = append(args, "-d", p.destined.String())
	}
	if p.from != "" {
		args = append(args, "-i", p.from)
	}
	if p.to != "" {
		args = append(args, "-o", p.to)
	}
	return append(args, "-m", "comment", "--comment", tag, "-j", "ACCEPT")
}

// forwardChain is the chain of iptables-nft that decides what the host forwards.
func forwardChain(f nftables.TableFamily) *nftables.Chain {
	return &nftables.Chain{Name: "FORWARD", Table: &nftables.Table{Family: f, Name: "filter"}}
}
