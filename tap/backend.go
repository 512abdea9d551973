package tap

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// openDevice opens the TAP of that name by the backend that mode permits. It must
// be called in our namespace.
func (p *Port) openDevice() (*device, error) {
	if p.mode == OffloadOff {
		return openPortable(p.device, "tap.offload is off")
	}
	d, err := openOffload(p.device)
	if !errors.Is(err, errNoVnet) {
		return d, err
	}
	if p.mode == OffloadOn {
		return nil, fmt.Errorf("%w (%w)", ErrNoOffload, err)
	}
	p.log.Warn("port works without offloads, and slower", "device", p.device, "err", err)
	return openPortable(p.device, err.Error())
}

// openOffload makes or takes over the TAP of that name, which ends with the
// descriptor. Its frames have virtio-net headers.
func openOffload(name string) (*device, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunPath, err)
	}
	f, err := equipOffload(fd, name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", tunPath, err), unix.Close(fd))
	}
	d, err := newDevice(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	d.vnet, d.features, d.usual = true, f, Offload{On: true, Features: f.names()}
	if f != wishes[0] {
		d.usual.Why = "the kernel has no " + strings.Join((wishes[0]&^f).names(), ", ")
	}
	return d, nil
}

// equipOffload makes fd the TAP of that name, with virtio-net headers of vnetLen
// bytes and as many offloads as the kernel has.
func equipOffload(fd int, name string) (features, error) {
	can, err := unix.IoctlGetUint32(fd, unix.TUNGETFEATURES)
	if err != nil || can&unix.IFF_VNET_HDR == 0 {
		return 0, errors.Join(errNoVnet, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return 0, attachError(err)
	}
	// One that a killed daemon left may persist.
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		return 0, fmt.Errorf("make %s end with us: %w", name, err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetLen); err != nil {
		return 0, fmt.Errorf("%w: set its length: %w", errNoVnet, err)
	}
	f, err := probe(func(f features) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(f)) })
	if err != nil {
		return 0, fmt.Errorf("%w: set offloads: %w", errNoVnet, err)
	}
	return f, nil
}

// openPortable makes or takes over the TAP of that name as openOffload does, for
// plain frames only. why says why there are no offloads.
func openPortable(name, why string) (*device, error) {
	ifce, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name},
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunPath, attachError(err))
	}
	// Its descriptor waits in Go's poller, which would be woken for each frame
	// beside our own poll, and is inherited by children: take another of the file.
	fd, err := duplicate(ifce.ReadWriteCloser)
	err = errors.Join(err, ifce.Close())
	if err != nil {
		return nil, err
	}
	d, err := newDevice(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	d.usual = Offload{Why: why}
	return d, nil
}

// duplicate returns another descriptor of an *os.File's open file, non-blocking.
func duplicate(f any) (fd int, err error) {
	file, ok := f.(*os.File)
	if !ok {
		return -1, fmt.Errorf("TAP is a %T", f)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = errors.Join(raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}), err)
	if err != nil {
		return -1, fmt.Errorf("duplicate the TAP's descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, errors.Join(fmt.Errorf("set the TAP non-blocking: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// attachError names what users can do about the kernel's refusal to give the TAP.
func attachError(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return ErrRunning
	case errors.Is(err, unix.EPERM):
		return ErrPrivilege
	}
	return err
}
