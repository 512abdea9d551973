package expose

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ruleset is the kernel's nftables as one look found it, and a batch of changes.
// The kernel takes a batch as a whole or not at all.
type ruleset struct {
	c      *nftables.Conn
	chains []*nftables.Chain
	done   []string // what the batch puts right, in words
}

// lookAtRules opens the ruleset of the calling thread's namespace.
func lookAtRules() (*ruleset, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", explainNF(err))
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("list nftables chains: %w", explainNF(err)), c.CloseLasting())
	}
	return &ruleset{c: c, chains: chains}, nil
}

func (r *ruleset) close() { r.c.CloseLasting() }

// commit sends the batch, if there is something in it.
func (r *ruleset) commit() error {
	if len(r.done) == 0 {
		return nil
	}
	if err := r.c.Flush(); err != nil {
		return fmt.Errorf("write nftables rules: %w", explainNF(err))
	}
	return nil
}

// explainNF says what a kernel lacks that knows no such thing.
func explainNF(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return ErrPrivilege
	case noTables(err), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: meshd needs nftables with masquerade, fib and netdev, which Linux has since 5.2 (modprobe nf_tables nft_chain_nat nft_masq nft_fib_inet nft_fib_netdev)", err)
	}
	return err
}

// noTables reports whether a kernel has no nftables at all, and so no rules of ours.
func noTables(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT)
}

func (r *ruleset) find(f nftables.TableFamily, table, chain string) *nftables.Chain {
	i := slices.IndexFunc(r.chains, func(c *nftables.Chain) bool {
		return c.Table.Family == f && c.Table.Name == table && c.Name == chain
	})
	if i < 0 {
		return nil
	}
	return r.chains[i]
}

// rules lists a chain; one that has gone meanwhile is empty.
func (r *ruleset) rules(c *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := r.c.GetRules(c.Table, c)
	if err != nil {
		return nil, fmt.Errorf("list nftables chain %s %s: %w", c.Table.Name, c.Name, err)
	}
	return rules, nil
}

// ourFamilies are those that we may have a table in.
var ourFamilies = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev}

// makeTables brings our tables to what is wanted.
func (r *ruleset) makeTables(want []table) error {
	for _, f := range ourFamilies {
		there, err := r.haveTable(f)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(want, func(t table) bool { return t.family == f })
		switch {
		case i >= 0:
			if err := r.makeTable(want[i], there); err != nil {
				return err
			}
		case there:
			r.c.DelTable(&nftables.Table{Family: f, Name: tableName})
			r.done = append(r.done, "a table was not needed")
		}
	}
	return nil
}

func (r *ruleset) haveTable(f nftables.TableFamily) (bool, error) {
	tables, err := r.c.ListTablesOfFamily(f)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("list nftables tables: %w", explainNF(err))
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }), nil
}

// makeTable rewrites the chains that differ, and the whole table if they do in
// more than their rules. Counters of chains that are right go on.
func (r *ruleset) makeTable(want table, there bool) error {
	t := &nftables.Table{Family: want.family, Name: tableName}
	if !there || !r.sameChains(want) {
		r.c.AddTable(t) // so that there is one to delete
		r.c.DelTable(t)
		r.c.AddTable(t)
		for _, c := range want.chains {
			r.addChain(t, c)
		}
		r.done = append(r.done, fmt.Sprintf("table %s was missing or changed", tableName))
		return nil
	}
	for _, c := range want.chains {
		have, err := r.rules(&nftables.Chain{Name: c.name, Table: t})
		if err != nil {
			return err
		}
		if slices.EqualFunc(have, c.rules, same) {
			continue
		}
		r.c.FlushChain(&nftables.Chain{Name: c.name, Table: t})
		r.addRules(t, c)
		r.done = append(r.done, fmt.Sprintf("rules of %s %s were missing or changed", tableName, c.name))
	}
	return nil
}

// sameChains compares the chains but for their rules.
func (r *ruleset) sameChains(want table) bool {
	n := 0
	for _, c := range r.chains {
		if c.Table.Family == want.family && c.Table.Name == tableName {
			n++
		}
	}
	return n == len(want.chains) && !slices.ContainsFunc(want.chains, func(c chain) bool {
		have := r.find(want.family, tableName, c.name)
		return have == nil || have.Type != c.kind ||
			have.Hooknum == nil || *have.Hooknum != *c.hook ||
			have.Priority == nil || *have.Priority != nftables.ChainPriority(c.priority) ||
			have.Policy == nil || *have.Policy != nftables.ChainPolicyAccept
	})
}

func (r *ruleset) addChain(t *nftables.Table, c chain) {
	policy := nftables.ChainPolicyAccept
	r.c.AddChain(&nftables.Chain{
		Name: c.name, Table: t, Type: c.kind, Hooknum: c.hook, Device: c.device, Policy: &policy,
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.priority)),
	})
	r.addRules(t, c)
}

func (r *ruleset) addRules(t *nftables.Table, c chain) {
	for _, rule := range c.rules {
		r.c.AddRule(rule.in(t, c.name))
	}
}

func same(have *nftables.Rule, want rule) bool {
	return keyOf(commentOf(have), have.Exprs) == keyOf(want.comment, want.exprs)
}

// makePasses brings our rules in a family's FORWARD to what is wanted. They go
// ahead of the others', but for DOCKER-USER: what the user says there holds for
// the overlay too. Where iptables-nft has no such chain nothing is
// dropped by it, and there is nothing to do.
func (r *ruleset) makePasses(f nftables.TableFamily, want []pass) error {
	at := forwardChain(f)
	if r.find(f, at.Table.Name, at.Name) == nil {
		return nil
	}
	have, err := r.rules(at)
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(slices.Clone(have), func(h *nftables.Rule) bool { return commentOf(h) != tag })
	if slices.EqualFunc(ours, want, func(h *nftables.Rule, p pass) bool { return same(h, p.rule()) }) {
		return nil
	}
	for _, h := range ours {
		h.Table, h.Chain = at.Table, at
		if err := r.c.DelRule(h); err != nil {
			return fmt.Errorf("remove a rule of FORWARD: %w", err)
		}
	}
	users := slices.IndexFunc(have, func(h *nftables.Rule) bool { return jumpsTo(h) == "DOCKER-USER" })
	for _, p := range slices.Backward(want) { // each goes before the one after it
		rule := p.rule().in(at.Table, at.Name)
		if users < 0 {
			r.c.InsertRule(rule)
			continue
		}
		rule.Position = have[users].Handle
		r.c.AddRule(rule) // behind it
	}
	r.done = append(r.done, fmt.Sprintf("rules of FORWARD (%s) were missing or changed", familyName(at.Table.Family)))
	return nil
}

// dockers lists the bridges whose ports Docker publishes, and which ones no other
// rule opens: it gives them to its chain DOCKER. Since version 28 it guards them
// by itself, and has no such rules.
func (r *ruleset) dockers() (list []string, err error) {
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		at := forwardChain(f)
		if r.find(f, at.Table.Name, at.Name) == nil {
			continue
		}
		rules, err := r.rules(at)
		if err != nil {
			return nil, err
		}
		for _, h := range rules {
			if name := leavesBy(h); jumpsTo(h) == "DOCKER" && name != "" && !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// recorded lists the addresses that the comments of our table name as ours.
func (r *ruleset) recorded() (list []string, err error) {
	if r.find(nftables.TableFamilyINet, tableName, "input") == nil {
		return nil, nil
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	rules, err := r.rules(&nftables.Chain{Name: "input", Table: t})
	for _, h := range rules {
		if c := commentOf(h); len(c) > len(exposedComment) && c[:len(exposedComment)] == exposedComment {
			list = append(list, c[len(exposedComment):])
		}
	}
	return list, err
}

const exposedComment = "exposed "
