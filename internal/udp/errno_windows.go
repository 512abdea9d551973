package udp

import "golang.org/x/sys/windows"

// syscall.EMSGSIZE is a number of Go's own on Windows.
const errTooBig = windows.WSAEMSGSIZE
