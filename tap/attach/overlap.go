package attach

import (
	"fmt"
	"net/netip"

	"meshd/internal/subnet"
)

// checkOverlaps refuses addresses that collide with what the container has: with
// have, which its interface on the overlay has, and with other devices.
func (a *attachment) checkOverlaps(fresh, have []netip.Prefix) error {
	for _, p := range fresh {
		for _, q := range have {
			if p.Addr() == q.Addr() {
				return fmt.Errorf("the container has %s as %s already: detach that first", p.Addr(), q)
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	index := 0
	if a.inner != nil {
		index = a.inner.Attrs().Index
	}
	others, err := subnet.Look(a.inside, "the container", index)
	if err != nil {
		return err
	}
	for _, p := range fresh {
		if err := others.Check(p); err != nil {
			return err
		}
	}
	return nil
}
