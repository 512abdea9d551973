//go:build !linux && !windows

package udp

import "syscall"

const errTooBig = syscall.EMSGSIZE
