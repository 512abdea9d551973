package expose

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addressing is what is to be done to the bridge's addresses.
type addressing struct {
	*addresses
	have   []ipAddress
	want   []netip.Prefix
	theirs []netip.Prefix // of want: on the bridge, and set by somebody else
	done   []string       // in words
}

// lookAtAddressesLocked tells our addresses on the bridge from others'. Ours are
// those with the kernel's tag, those that the table's comments name, and those
// that we set.
func (e *Exposer) lookAtAddressesLocked(bridge netlink.Link, rules *ruleset, s state) (*addressing, error) {
	recorded, err := rules.recorded()
	if err != nil {
		return nil, err
	}
	a, err := openAddresses(bridge.Attrs().Index)
	if err != nil {
		return nil, err
	}
	d := &addressing{addresses: a}
	if d.have, err = a.list(); err != nil {
		a.close()
		return nil, err
	}
	for _, x := range s.exposed {
		d.want = append(d.want, x.Address)
	}
	for i, x := range d.have {
		ours := x.tagged || slices.Contains(recorded, x.prefix.String()) || slices.Contains(e.added, x.prefix)
		d.have[i].tagged = ours
		if !ours && slices.Contains(d.want, x.prefix) {
			d.theirs = append(d.theirs, x.prefix)
		}
	}
	return d, nil
}

// removeLocked removes ours that are not wanted. With the first address of an
// IPv4 subnet the kernel removes the others of it: those are set again as they
// were.
func (d *addressing) removeLocked(e *Exposer) error {
	gone := func(x ipAddress) bool { return x.tagged && !slices.Contains(d.want, x.prefix) }
	if !slices.ContainsFunc(d.have, gone) {
		return nil
	}
	for _, x := range d.have {
		if !gone(x) {
			continue
		}
		if err := d.remove(x.prefix); err != nil {
			return err
		}
		e.added = slices.DeleteFunc(e.added, func(p netip.Prefix) bool { return p == x.prefix })
		d.done = append(d.done, "address "+x.prefix.String()+" was not needed")
	}
	left, err := d.list()
	if err != nil {
		return err
	}
	for _, x := range d.have {
		if gone(x) || slices.ContainsFunc(left, func(l ipAddress) bool { return l.prefix == x.prefix }) {
			continue
		}
		if err := d.again(x); err != nil {
			return err
		}
	}
	return nil
}

// addLocked sets what is wanted and missing.
func (d *addressing) addLocked(e *Exposer) error {
	for _, p := range d.want {
		if slices.ContainsFunc(d.have, func(x ipAddress) bool { return x.prefix == p }) {
			continue
		}
		if err := d.add(p); err != nil {
			return err
		}
		if !slices.Contains(e.added, p) {
			e.added = append(e.added, p)
		}
		d.done = append(d.done, "address "+p.String()+" was missing")
	}
	return nil
}

// duplicates lists ours that the kernel found in use by another host: RFC 4862.
func (d *addressing) duplicates() (list []netip.Prefix) {
	for _, x := range d.have {
		if x.tagged && x.flags&unix.IFA_F_DADFAILED != 0 {
			list = append(list, x.prefix)
		}
	}
	return list
}
