package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is one TAP that we have open. It is not changed after it was made.
type device struct {
	file  *os.File
	raw   syscall.RawConn
	index int // in our namespace
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
	d, err := openDevice(p.device)
	if err != nil {
		return nil, err
	}
	link, err := p.nl.LinkByName(p.device)
	if err == nil {
		err = p.nl.LinkSetAlias(link, portTag)
	}
	if err != nil {
		return nil, errors.Join(err, d.file.Close())
	}
	if err := setIPv6(p.device, portSettings); err != nil {
		p.log.Warn("port may take part in IPv6", "device", p.device, "err", err)
	}
	d.index = link.Attrs().Index
	if old := p.dev.Swap(d); old != nil {
		old.file.Close() // its device is gone; the error says so again
	}
	select {
	case p.swapped <- struct{}{}:
	default:
	}
	return link, nil
}

// checkDeviceName makes sure that the TAP's name is free, or that of a TAP that a
// killed meshd left. It also keeps openDevice from failing for a taken name:
// water would not close the descriptor then.
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

// openDevice makes or takes over the TAP of that name, which ends with the
// descriptor.
func openDevice(name string) (*device, error) {
	ifce, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name},
	})
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, ErrRunning
	case errors.Is(err, unix.EPERM):
		return nil, ErrPrivilege
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", tunPath, err)
	}
	file, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, errors.Join(fmt.Errorf("TAP is a %T", ifce.ReadWriteCloser), ifce.Close())
	}
	raw, err := file.SyscallConn()
	if err == nil {
		// A child that inherits it would keep the TAP alive.
		err = raw.Control(func(fd uintptr) { unix.CloseOnExec(int(fd)) })
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &device{file: file, raw: raw}, nil
}
