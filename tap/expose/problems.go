package expose

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Problems says in words what is in the way of what Set asked for, as the last
// look found it: each a sentence with its remedy.
func (e *Exposer) Problems() []string {
	if list := e.problems.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

// problemPause is how long a problem has to last before it is logged: a firewall
// that is loaded anew (firewalld) drops everything for a moment.
const problemPause = 2 * time.Second

// trouble is a problem that the last look found.
type trouble struct {
	first  time.Time // when it was found first
	logged bool
}

// findProblemsLocked looks for what we cannot or will not put right. failure is
// the error of the repair before, if any. A problem that lasts is logged once.
func (e *Exposer) findProblemsLocked(failure error) {
	var list []string
	if failure != nil {
		list = append(list, "addresses or rules of the overlay cannot be restored: "+failure.Error())
	}
	if e.want.up {
		list = append(list, e.lookForProblemsLocked()...)
	}
	e.logProblemsLocked(list, time.Now())
	e.problems.Store(&list)
}

func (e *Exposer) logProblemsLocked(list []string, now time.Time) {
	last := map[string]trouble{}
	for _, p := range list {
		t, known := e.troubles[p]
		if !known {
			t.first = now
		}
		if !t.logged && now.Sub(t.first) >= problemPause {
			e.log.Warn("host is not exposed as asked", "bridge", e.cfg.Bridge, "problem", p)
			t.logged = true
		}
		last[p] = t
	}
	e.troubles = last
}

func (e *Exposer) lookForProblemsLocked() (list []string) {
	bridge, err := e.findBridge()
	if err != nil {
		return []string{err.Error()}
	}
	if bridge == nil && len(e.want.exposed) > 0 {
		list = append(list, fmt.Sprintf("the bridge %s is missing, and the host's addresses on it with it: they come back with the bridge", e.cfg.Bridge))
	}
	rules, err := lookAtRules()
	if err != nil {
		return append(list, err.Error())
	}
	defer rules.close()
	if bridge != nil {
		if a, err := e.lookAtAddressesLocked(bridge, rules, e.want); err == nil {
			for _, p := range a.duplicates() {
				list = append(list, fmt.Sprintf("another host on the overlay has the address %s: hide it here (meshd hide %[1]s) and expose another", p))
			}
			a.close()
		}
	}
	p := e.plan(e.want, bridge)
	list = append(list, p.forwarding()...)
	list = append(list, p.legacyProblems()...)
	return append(list, p.obstacles(rules)...)
}

// forwarding looks at the switches that make the host a router. Turning one on
// would open more than what was asked for, so that is left to the operator.
func (p plan) forwarding() (list []string) {
	for _, f := range []struct {
		ip6          bool
		file, sysctl string
	}{
		{false, "/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"},
		{true, "/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"},
	} {
		subnets := p.subnets(func(x Exposed) bool { return x.Address.Addr().Is6() == f.ip6 })
		if len(subnets) > 0 && setting(f.file) == "0" {
			list = append(list, fmt.Sprintf("the host does not forward (%s is 0): containers of %s reach the host, and nothing behind it: sysctl -w %[1]s=1", f.sysctl, subnets[0]))
		}
	}
	return list
}

// meetsForward reports whether packets of the overlay meet the FORWARD chains of
// a family: bridged ones where br_netfilter is loaded and on, routed ones when
// the host is exposed.
func (p plan) meetsForward(ip6 bool) bool {
	file := "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if ip6 {
		file = "/proc/sys/net/bridge/bridge-nf-call-ip6tables"
	}
	return setting(file) == "1" || len(p.passes(ip6)) > 1
}

func (p plan) legacyProblems() (list []string) {
	for _, l := range legacies {
		if l.inUse() && l.path() == "" && p.meetsForward(l.ip6) {
			list = append(list, l.problem(p))
		}
	}
	return list
}

// problem says what the user has to type where we have not the program.
func (l legacy) problem(p plan) string {
	return fmt.Sprintf("this host has rules of %s, which meshd can neither change nor read as that program is not here (in meshd's container): if their FORWARD drops (Docker's does), type on the host after each of its starts: %s",
		l.program, l.commands(p.passes(l.ip6)))
}

// obstacles looks for chains of others that drop what crosses the bridge: an
// accept in our table does not overrule them, and they are not ours to change.
func (p plan) obstacles(r *ruleset) (list []string) {
	for _, c := range r.chains {
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Table.Name == tableName || !p.concerns(c.Table.Family) {
			continue
		}
		mine := c.Name == "FORWARD" && c.Table.Name == "filter" && c.Table.Family != nftables.TableFamilyINet
		drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		firewalld := c.Table.Name == "firewalld" && strings.HasPrefix(c.Name, "filter_")
		if mine || !drops && !firewalld || p.named(r, c.Table) {
			continue
		}
		if firewalld {
			list = append(list, fmt.Sprintf("firewalld rejects what crosses the bridge %s: firewall-cmd --permanent --zone=trusted --add-interface=%[1]s && firewall-cmd --reload", p.bridge))
			continue
		}
		f := familyName(c.Table.Family)
		list = append(list, fmt.Sprintf("the chain %s of nftables table %s %s drops what crosses the bridge %s: nft insert rule %[2]s %[3]s %[1]s iifname %[4]s accept; nft insert rule %[2]s %[3]s %[1]s oifname %[4]s accept",
			c.Name, f, c.Table.Name, p.bridge))
	}
	return list
}

func (p plan) concerns(f nftables.TableFamily) bool {
	switch f {
	case nftables.TableFamilyIPv4:
		return p.meetsForward(false)
	case nftables.TableFamilyIPv6:
		return p.meetsForward(true)
	case nftables.TableFamilyINet:
		return p.meetsForward(false) || p.meetsForward(true)
	}
	return false
}

// named reports whether a table has a rule about our bridge: then somebody has
// thought of it.
func (p plan) named(r *ruleset, t *nftables.Table) bool {
	name := append([]byte(p.bridge), 0)
	for _, c := range r.chains {
		if c.Table.Family != t.Family || c.Table.Name != t.Name {
			continue
		}
		rules, err := r.rules(c)
		if err != nil {
			continue
		}
		for _, rule := range rules {
			for _, e := range rule.Exprs {
				if cmp, ok := e.(*expr.Cmp); ok && string(cutName(cmp.Data)) == string(name) {
					return true
				}
			}
		}
	}
	return false
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyNetdev:
		return "netdev"
	}
	return "inet"
}

// setting reads a kernel setting of the calling thread's namespace; "" where the
// kernel has none.
func setting(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
