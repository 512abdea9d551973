package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// setting is one value below /proc/sys/net/ipv6/conf/DEVICE.
type setting struct{ name, value string }

// bridgeSettings keep the host off the overlay: routers there must not configure
// it, and it has no address of its own making.
var bridgeSettings = []setting{
	{"accept_ra", "0"},
	{"accept_redirects", "0"},
	{"addr_gen_mode", "1"}, // none: no link-local address, so no traffic of ours
}

// portSettings keep the host's IPv6 off the port: it is a port of the bridge only.
var portSettings = []setting{
	{"disable_ipv6", "1"},
	{"accept_ra", "0"},
}

// hostSysctl is the host's /proc/sys, or the part of it that concerns networks, where
// the script `mesh` mounts it into our container: Docker mounts a container's own
// /proc/sys read-only, and AppArmor's profile docker-default refuses to write below
// that path. What is read and written there is, as there, of the calling thread's
// network namespace.
const hostSysctl = "/host/proc/sys"

// setIPv6 writes settings of a device in the calling thread's namespace. A kernel
// without IPv6 has nothing to set.
func setIPv6(device string, settings []setting) error {
	var errs []error
	for _, s := range settings {
		err := writeSysctl(filepath.Join("net/ipv6/conf", device, s.name), s.value, "/proc/sys", hostSysctl)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("set %s of %s: %w", s.name, device, err))
		}
	}
	return errors.Join(errs...)
}

// writeSysctl writes below the first of the roots that can be written to. The error is
// the first one's.
func writeSysctl(path, value string, roots ...string) error {
	var first error
	for _, root := range roots {
		err := overwrite(filepath.Join(root, path), value)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, unix.EROFS) && !errors.Is(err, fs.ErrPermission) {
			break
		}
	}
	return first
}

// overwrite writes a file that exists already.
func overwrite(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
