package main

import (
	"runtime"
	"testing"
)

func TestSpareProcessors(t *testing.T) {
	was := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(was)
	t.Setenv("GOMAXPROCS", "3")
	spareProcessors()
	if got := runtime.GOMAXPROCS(0); got != was {
		t.Errorf("GOMAXPROCS is %d where the user set it, was %d", got, was)
	}
	t.Setenv("GOMAXPROCS", "")
	spareProcessors()
	if got := runtime.GOMAXPROCS(0); got != was+busyReaders {
		t.Errorf("GOMAXPROCS = %d, want %d", got, was+busyReaders)
	}
}
