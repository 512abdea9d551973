package attach

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"meshd/internal/ethtool"
)

// weavePrefix begins the name of the host side of what `weave attach` makes; the
// container's process id follows. Names of ours go on in hexadecimal.
const weavePrefix = hostPrefix + "pl"

// OfWeave looks at the interface that Weave Net has given a container, which Attach
// takes over: the default device, with its other end on the bridge. ok is false if there
// is none.
func OfWeave(ns *Namespace, bridge string) (out Interface, ok bool, err error) {
	p, err := openPair(ns, "", DefaultDevice)
	if err != nil {
		return Interface{}, false, err
	}
	defer p.close()
	on, err := byName(p.host, bridge)
	if err != nil || on == nil {
		return Interface{}, false, err
	}
	if ok, err := p.findWeave(on); err != nil || !ok {
		return Interface{}, false, err
	}
	out, err = p.look()
	return out, err == nil, err
}

// findWeave looks for the pair that Weave has made.
func (p *pair) findWeave(bridge netlink.Link) (bool, error) {
	inner, err := byName(p.inside, p.device)
	if err != nil || inner == nil || inner.Type() != "veth" {
		return false, err
	}
	outer, err := p.host.LinkByIndex(inner.Attrs().ParentIndex)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find the other end of %s: %w", p.device, err)
	}
	a := outer.Attrs()
	if !strings.HasPrefix(a.Name, weavePrefix) || a.Alias != "" || a.MasterIndex != bridge.Attrs().Index {
		return false, nil
	}
	end, err := p.endOf(outer)
	if err != nil || end == nil || end.Attrs().Index != inner.Attrs().Index {
		return false, err
	}
	p.outer, p.inner = outer, inner
	return true, nil
}

// takeOver makes Weave's pair ours, as it is: MAC, addresses and connections stay.
// It gets our name and alias here, and its settings as a new one does.
func (a *attachment) takeOver() error {
	theirs, ours := a.outer.Attrs().Name, hostName(a.key)
	a.undo = append(a.undo, func() error { return a.nameOuter(theirs, "") })
	if err := a.nameOuter(ours, tag+a.key); err != nil {
		return err
	}
	a.fresh, a.changed = true, true
	// Weave switches it off, which costs most of the throughput.
	if err := a.ns.do(a.ensureChecksumOffload); err != nil {
		a.o.Log.Debug("checksum offload stays off", "device", a.device, "err", err)
	}
	a.o.Log.Info("interface of Weave Net taken over", "device", theirs, "now", ours)
	return nil
}

// nameOuter gives the host side a name and an alias; older kernels want it down for
// that.
func (a *attachment) nameOuter(name, alias string) error {
	err := setNames(a.outer, name, alias)
	if errors.Is(err, unix.EBUSY) {
		err = errors.Join(a.host.LinkSetDown(a.outer), setNames(a.outer, name, alias), a.host.LinkSetUp(a.outer))
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", a.outer.Attrs().Name, name, err)
	}
	a.outer.Attrs().Name, a.outer.Attrs().Alias = name, alias
	return nil
}

// setNames sets the name and the alias of a device in one request: whoever ends in
// the middle leaves Weave's device or ours, and nothing between. It works in the
// calling thread's namespace.
func setNames(link netlink.Link, name, alias string) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// ensureChecksumOffload has the inner end take packets without a checksum, and with that
// whole segments of streams. The thread is in the container.
func (a *attachment) ensureChecksumOffload() error {
	was, err := ethtool.Get(a.device, unix.ETHTOOL_GTXCSUM)
	if err == nil {
		err = ethtool.Set(a.device, unix.ETHTOOL_STXCSUM, 1)
	}
	if err != nil || was != 0 {
		return err
	}
	// Weave's router wants whole packets: it captures them.
	a.undo = append(a.undo, func() error {
		return a.ns.do(func() error {
			if err := ethtool.Set(a.device, unix.ETHTOOL_STXCSUM, 0); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("switch the checksum offload of %s off again: %w", a.device, err)
			}
			return nil
		})
	})
	return nil
}
