package expose

import (
	"fmt"

	"github.com/google/nftables"
)

// Left lists, in words, the addresses and rules that meshd has made in the
// calling thread's namespace, whichever run did: what a killed daemon left.
func Left(bridge string) (list []string, err error) {
	e, err := New(Config{Bridge: bridge})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	err = e.inside(func() error {
		list, err = e.left()
		return err
	})
	return list, err
}

// RemoveLeft removes what Left lists. A running daemon would restore it.
func RemoveLeft(bridge string) error {
	e, err := New(Config{Bridge: bridge})
	if err != nil {
		return err
	}
	defer e.Close()
	return e.Remove()
}

func (e *Exposer) left() (list []string, err error) {
	rules, err := lookAtRules()
	if noTables(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer rules.close()
	bridge, err := e.findBridge()
	if err != nil {
		return nil, err
	}
	if bridge != nil {
		a, err := e.lookAtAddressesLocked(bridge, rules, state{})
		if err != nil {
			return nil, err
		}
		defer a.close()
		for _, x := range a.have {
			if x.tagged {
				list = append(list, fmt.Sprintf("address %s of %s", x.prefix, e.cfg.Bridge))
			}
		}
	}
	for _, f := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev} {
		there, err := rules.haveTable(f)
		if err != nil {
			return nil, err
		}
		if there {
			list = append(list, fmt.Sprintf("nftables table %s %s", familyName(f), tableName))
		}
	}
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		n, err := rules.tagged(f)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			list = append(list, fmt.Sprintf("%d rules of FORWARD in nftables table %s filter", n, familyName(f)))
		}
	}
	return list, nil
}

// tagged counts our rules in a family's FORWARD.
func (r *ruleset) tagged(f nftables.TableFamily) (n int, err error) {
	at := forwardChain(f)
	if r.find(f, at.Table.Name, at.Name) == nil {
		return 0, nil
	}
	rules, err := r.rules(at)
	for _, h := range rules {
		if commentOf(h) == tag {
			n++
		}
	}
	return n, err
}
