package udp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// mmsg does recvmmsg or sendmmsg, without waiting, and returns how many messages
// the kernel took. hdrs is not empty.
//
// Go's scheduler is not told of the call (RawSyscall6): a sendmmsg does much of
// the receiver's work where both ends are on one machine, takes longer than the
// scheduler lets a system call have its processor, and would have to get it back.
func mmsg(trap uintptr, fd int, hdrs []mmsghdr) (int, unix.Errno) {
	for {
		done, _, errno := unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(hdrs))),
			uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(done), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// control is room for one control message of 32 bits or less: that of
// UDP_SEGMENT or UDP_GRO.
type control struct {
	hdr  unix.Cmsghdr
	data [8]byte
}

// pending reports whether errno may be one that the kernel kept from an ICMP
// error for the next call on the socket, whatever it is about (sk_err; see
// IP_RECVERR in ip(7)).
func pending(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE, unix.ENOPROTOOPT,
		unix.EOPNOTSUPP, unix.EHOSTDOWN, unix.ENONET, unix.EPROTO, unix.EACCES:
		return true
	}
	return false
}
