package attach

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
// It gets our name here, and its alias and settings as a new one does.
func (a *attachment) takeOver() error {
	theirs, ours := a.outer.Attrs().Name, hostName(a.key)
	if err := a.renameOuter(ours); err != nil {
		return err
	}
	a.fresh, a.changed = true, true
	a.undo = append(a.undo, func() error {
		return errors.Join(a.host.LinkSetAlias(a.outer, ""), a.renameOuter(theirs))
	})
	// Weave switches them off, which costs most of the throughput.
	err := a.ns.do(func() error { return checksumOffload(a.device) })
	if err != nil {
		a.o.Log.Debug("checksum offload stays off", "device", a.device, "err", err)
	}
	a.o.Log.Info("interface of Weave Net taken over", "device", theirs, "now", ours)
	return nil
}

// renameOuter gives the host side a name; older kernels want it down for that.
func (a *attachment) renameOuter(name string) error {
	err := a.host.LinkSetName(a.outer, name)
	if errors.Is(err, unix.EBUSY) {
		err = errors.Join(a.host.LinkSetDown(a.outer), a.host.LinkSetName(a.outer, name), a.host.LinkSetUp(a.outer))
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", a.outer.Attrs().Name, name, err)
	}
	a.outer.Attrs().Name = name
	return nil
}

// checksumOffload has a device of the calling thread's namespace take packets without a
// checksum, and with that whole segments of streams.
func checksumOffload(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, on uint32 }{unix.ETHTOOL_STXCSUM, 1} // struct ethtool_value
	var req struct {                                           // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], device)
	req.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
