package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPieces is how many pieces the kernel takes in one call (IOV_MAX, readv(2)).
const maxPieces = 1024

// vector is what writev(2) takes, kept from call to call. It holds on to what was
// written until clear.
type vector []unix.Iovec

// add appends a piece; b must not be empty.
func (v *vector) add(b []byte) {
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	*v = append(*v, iov)
}

// write writes the pieces, at least one, as one frame.
func (v vector) write(fd int) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
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
