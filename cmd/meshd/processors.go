package main

import (
	"os"
	"runtime"
)

// busyReaders is how many goroutines keep threads of their own while frames flow:
// the reader of the port and that of a socket.
const busyReaders = 2

// spareProcessors gives Go's scheduler a processor for each busy reader besides
// those of the CPUs. A reader that comes back from the kernel must have one before
// it goes on; with as many as CPUs it waits until Go's monitor takes one from a
// thread that sleeps, and throughput is two thirds (docs/performance.md). Who sets
// GOMAXPROCS decides himself.
func spareProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + busyReaders)
	}
}
