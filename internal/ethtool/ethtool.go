// Package ethtool gives the commands of linux/ethtool.h to network devices.
package ethtool

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call gives a command to a device of the calling thread's network namespace. arg is the
// command's structure, which begins with its number; the kernel writes the answer there.
// Errors are the kernel's: ENODEV where there is no such device.
func Call(device string, arg unsafe.Pointer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var req struct { // struct ifreq, or a little more
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], device)
	req.data = arg
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

// value is struct ethtool_value.
type value struct{ cmd, data uint32 }

// Get asks a device for one value, such as with ETHTOOL_GTXCSUM whether it takes packets
// without a checksum. Errors are those of Call.
func Get(device string, cmd uint32) (uint32, error) {
	v := value{cmd: cmd}
	err := Call(device, unsafe.Pointer(&v))
	return v.data, err
}

// Set sets one value of a device, such as with ETHTOOL_STXCSUM. Errors are those of Call.
func Set(device string, cmd, data uint32) error {
	v := value{cmd, data}
	return Call(device, unsafe.Pointer(&v))
}
