package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vector is what writev(2) takes, kept from call to call. It holds on to what was
// written until clear.
type vector []unix.Iovec

// add appends a piece; b must not be empty.
func (v *vector) add(b []byte) {
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	*v = append(*v, iov)
}

// write writes the pieces as one frame. There are at least one and, as a
// frame.Joiner makes them, far fewer than the kernel's limit (IOV_MAX, readv(2)).
// It does not wait, and is a raw call as readNow is.
func (v vector) write(fd int) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// clear forgets the pieces, so that their memory can be freed.
func (v *vector) clear() {
	clear(*v)
	*v = (*v)[:0]
}
