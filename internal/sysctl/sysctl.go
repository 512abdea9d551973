// Package sysctl writes kernel settings of the calling thread's network namespace, on a
// host and in the container that the script `mesh` starts.
package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// roots are where settings may be. Docker mounts a container's own /proc/sys read-only,
// and AppArmor's profile docker-default refuses to write below that path; `mesh` mounts
// the host's, as far as it concerns networks, at the second one. Either shows the
// settings of the network namespace that the calling thread is in.
const (
	own  = "/proc/sys"
	host = "/host/proc/sys"
)

// Write sets one setting, such as "net/ipv6/conf/weave/accept_ra". The error is
// fs.ErrNotExist where the kernel has none of that name.
func Write(name, value string) error { return write(name, value, own, host) }

// write writes below the first of the roots that can be written to. The error is the
// first one's.
func write(name, value string, roots ...string) error {
	var first error
	for _, root := range roots {
		err := overwrite(filepath.Join(root, name), value)
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
