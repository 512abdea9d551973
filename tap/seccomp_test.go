package tap

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// condition is about an argument of a system call: equal to value, or having one
// of its bits if bits is set.
type condition struct {
	arg   int
	value uint32
	bits  bool
}

// refuseCalls lets the kernel refuse, with EINVAL and to this thread alone, which
// must be locked and to end with the test, a system call whose arguments meet all
// conditions: as a kernel does that does not know them.
func refuseCalls(t testing.TB, call uint32, conditions ...condition) {
	t.Helper()
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("arguments lie elsewhere in seccomp_data") // in big-endian machines
	}
	// struct seccomp_data (seccomp(2)): number at 0, arguments of 8 bytes from 16 on.
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	n := uint8(2 * len(conditions)) // instructions until "refuse"
	prog := []unix.SockFilter{load(0), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: n + 1}}
	for _, c := range conditions {
		op := uint16(unix.BPF_JEQ)
		if c.bits {
			op = unix.BPF_JSET
		}
		n -= 2
		prog = append(prog, load(16+8*uint32(c.arg)), unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: c.value, Jf: n + 1})
	}
	ret := uint16(unix.BPF_RET | unix.BPF_K)
	prog = append(prog,
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	must(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, errno := unix.Syscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		t.Skipf("needs seccomp: %v", errno)
	}
}
