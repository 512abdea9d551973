package main

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// namespaceLock is an abstract unix socket. Its name belongs to the network
// namespace, and is free again when the process ends, however it does.
const namespaceLock = "@meshd/namespace"

// lockNamespace makes sure that this is the only daemon in the network namespace.
func lockNamespace() (io.Closer, error) {
	l, err := net.Listen("unix", namespaceLock)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	pid := 0
	if c, err := net.Dial("unix", namespaceLock); err == nil {
		pid = peerPID(c)
		c.Close()
	}
	return nil, fmt.Errorf("another meshd%s runs in this network namespace (it holds the socket %s): end it first (meshd down)",
		byPID(pid), namespaceLock)
}
