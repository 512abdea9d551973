package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// maxRefusals is how many super-frames in a row, made by us and therefore right, the
// kernel may refuse before it gets no more.
const maxRefusals = 8

// device is one TAP that we have open. One thread reads, any may write.
type device struct {
	index    int      // in our namespace
	vnet     bool     // frames have virtio-net headers: the offload backend
	features features // of the offload backend
	usual    Offload  // what was found when it was opened

	refusals atomic.Int32 // in a row, of super-frames that we made

	closing atomic.Bool // set once, before the reader is woken for it
	// mu is held shared by whoever uses the descriptors, the sleeping reader too,
	// and held to close them.
	mu   sync.RWMutex
	fd   int // the TAP, non-blocking; -1: closed
	wake int // eventfd that ends the reader's sleep
}

// newDevice takes over the descriptor of a TAP, unless it fails.
func newDevice(fd int) (*device, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &device{fd: fd, wake: wake}, nil
}

// joins returns which super-frames the kernel gets.
func (d *device) joins() frame.JoinWhat {
	switch {
	case !d.vnet || d.refusals.Load() >= maxRefusals:
		return 0
	case d.features&unix.TUN_F_USO4 == 0: // those of UDP: learned together with giving them
		return frame.JoinTCPv4 | frame.JoinTCPv6
	}
	return frame.JoinTCPv4 | frame.JoinTCPv6 | frame.JoinUDP
}

// takes tells whether the kernel gets frames with such an Offload.
func (d *device) takes(o frame.Offload) bool {
	switch o.GSOType &^ frame.GSOECN {
	case frame.GSONone:
		return d.vnet
	case frame.GSOTCPv4:
		return d.joins()&frame.JoinTCPv4 != 0
	case frame.GSOTCPv6:
		return d.joins()&frame.JoinTCPv6 != 0
	case frame.GSOUDP:
		return d.joins()&frame.JoinUDP != 0
	}
	return false
}

// judge notes whether the kernel took a super-frame that we made. It returns true
// when that was the last that it gets.
func (d *device) judge(taken bool) (gaveUp bool) {
	if !taken {
		return d.refusals.Add(1) == maxRefusals
	}
	if d.refusals.Load() != 0 {
		d.refusals.Store(0)
	}
	return false
}

// Offload says what is in force.
func (d *device) Offload() Offload {
	o := d.usual
	if d.vnet && d.joins() == 0 {
		o.Why = "the kernel refuses super-frames: they are cut before they are written"
	}
	return o
}

// interrupt lets the reader's batch, the one that it waits in or else its next,
// return without frames.
func (d *device) interrupt() {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.fd >= 0 {
		unix.Write(d.wake, []byte{7: 1}) // a full counter wakes as well
	}
}

// close closes the TAP, which is gone with that: it does not persist. It waits for
// those who use it. Later calls do nothing.
func (d *device) close() error {
	d.closing.Store(true)
	d.interrupt()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return nil
	}
	err := errors.Join(os.NewSyscallError("close", unix.Close(d.fd)), unix.Close(d.wake))
	d.fd, d.wake = -1, -1
	return err
}

// ensureDevice returns the TAP, equipped and up but not yet on a bridge, and what
// had to be done for that.
func (p *Port) ensureDevice() (link netlink.Link, done []string, err error) {
	link, err = p.findDevice()
	if notFound(err) {
		link, err = p.makeDevice()
		done = append(done, "port was missing")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find or make TAP %s: %w", p.device, err)
	}
	a := link.Attrs()
	if a.Name != p.device {
		if err := p.rename(link, p.device); err != nil {
			return nil, done, err
		}
		done = append(done, "port was renamed")
	}
	if a.MTU != p.mtu {
		if err := p.nl.LinkSetMTU(link, p.mtu); err != nil {
			return nil, done, fmt.Errorf("set MTU of %s to %d: %w", p.device, p.mtu, err)
		}
		done = append(done, "port had another MTU")
	}
	if a.Flags&net.FlagUp == 0 {
		if err := p.nl.LinkSetUp(link); err != nil {
			return nil, done, fmt.Errorf("set %s up: %w", p.device, err)
		}
		done = append(done, "port was down")
	}
	return link, done, nil
}

// findDevice looks for the TAP that we have open. It may be gone, from the host
// or into another namespace.
func (p *Port) findDevice() (netlink.Link, error) {
	d := p.dev.Load()
	if d == nil {
		return nil, netlink.LinkNotFoundError{}
	}
	link, err := p.nl.LinkByIndex(d.index)
	if err == nil && link.Type() != "tuntap" {
		return nil, netlink.LinkNotFoundError{} // the number was given to another
	}
	return link, err
}

// makeDevice makes a TAP and puts it in the place of the one before. It must be
// called in our namespace.
func (p *Port) makeDevice() (netlink.Link, error) {
	if err := p.checkDeviceName(); err != nil {
		return nil, err
	}
	d, err := p.openDevice()
	if err != nil {
		return nil, err
	}
	link, err := p.nl.LinkByName(p.device)
	if err == nil {
		err = p.nl.LinkSetAlias(link, portTag)
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	if err := setIPv6(p.device, portSettings); err != nil {
		p.log.Warn("port may take part in IPv6", "device", p.device, "err", err)
	}
	d.index = link.Attrs().Index
	if old := p.dev.Swap(d); old != nil {
		old.close() // its device is gone; the error says so again
	}
	select {
	case p.swapped <- struct{}{}:
	default:
	}
	return link, nil
}

// checkDeviceName makes sure that the TAP's name is free, or that of a TAP that a
// killed meshd left. It also keeps openPortable from failing for a taken
// name: water would not close the descriptor then.
func (p *Port) checkDeviceName() error {
	link, err := p.nl.LinkByName(p.device)
	switch {
	case notFound(err):
		return nil
	case err != nil:
		return err
	case !isOurPort(link):
		return fmt.Errorf("device %s of the kind %s: %w", p.device, link.Type(), ErrDeviceTaken)
	}
	// One that does not persist exists only while a process has it open.
	if t, ok := link.(*netlink.Tuntap); ok && t.NonPersist {
		return fmt.Errorf("%s is in use: %w", p.device, ErrRunning)
	}
	return nil
}
