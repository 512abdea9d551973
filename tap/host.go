package tap

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// checkHost makes sure that the thread may make devices and that there is a TAP
// driver, so that what is missing is named before anything is made.
func checkHost() error {
	if err := checkCapability(); err != nil {
		return err
	}
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("open %s: %w", tunPath, ErrNoTun)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", tunPath, os.NewSyscallError("open", err))
	}
	return unix.Close(fd)
}

// checkCapability looks at the calling thread's effective set, capabilities(7).
func checkCapability() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return ErrPrivilege
	}
	return nil
}

// checkNames refuses names that the kernel would refuse, or that mean something
// else below /proc/sys/net.
func checkNames(names ...string) error {
	for _, n := range names {
		if n == "" || len(n) >= unix.IFNAMSIZ || slices.Contains([]string{".", "..", "all", "default"}, n) ||
			strings.ContainsFunc(n, func(r rune) bool { return r == '/' || r == ':' || r == '%' || r <= ' ' || r > '~' }) {
			return fmt.Errorf("%q is not a name for a network device", n)
		}
	}
	if names[0] == names[1] {
		return fmt.Errorf("bridge and port cannot both be called %q", names[0])
	}
	return nil
}
