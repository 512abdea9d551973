package integration

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"meshd/internal/lab"
)

const (
	flowPort = 5201
	// flowBytes is the least that a container's interface carries between two
	// looks while the flow runs: more than neighbour discovery and lone
	// retransmissions.
	flowBytes = 20_000
	flowLook  = 50 * time.Millisecond
	flowRuns  = 10
)

// flow is one TCP connection of iperf3 between two containers, which is watched
// for how long it stands still.
type flow struct {
	w              *world
	to             *box
	client, server *lab.Process
	stop           context.CancelFunc
	marks          chan chan time.Duration
	looks          atomic.Int64 // that found frames arriving
}

// flow starts iperf3 between containers and waits until it runs.
func (b *box) flow(to *box) *flow {
	b.w.Helper()
	path, err := exec.LookPath("iperf3")
	if err != nil {
		b.w.Skip("iperf3 is not installed (Debian package iperf3)")
	}
	start := func(n *box, name string, args ...string) *lab.Process {
		p, err := n.Start(lab.Command{Path: path, Args: append(args, "-p", strconv.Itoa(flowPort)),
			Log: filepath.Join(b.w.lab.Dir(), name)})
		b.w.must(err)
		return p
	}
	f := &flow{w: b.w, to: to, marks: make(chan chan time.Duration)}
	f.server = start(to, "iperf3-server", "-s", "-1")
	b.w.eventually("iperf3 listens", func(ctx context.Context) error {
		out, err := to.listening(ctx)
		if err == nil && !strings.Contains(out, fmt.Sprint(":", flowPort)) {
			err = fmt.Errorf("nothing listens on %d", flowPort)
		}
		return err
	})
	// Held back, so that two processors have time for what is to be seen here.
	f.client = start(b, "iperf3-client", "-c", to.addr().String(), "-t", "600", "-b", "40M")
	ctx, cancel := context.WithCancel(b.w.Context())
	f.stop = cancel
	go f.watch(ctx)
	b.w.Cleanup(cancel)
	f.runs()
	f.longest()
	return f
}

// listening lists the container's TCP listeners.
func (b *box) listening(ctx context.Context) (out string, err error) {
	cmd := exec.CommandContext(ctx, "ss", "-ltn")
	err = b.Do(func() error {
		o, err := cmd.Output()
		out = string(o)
		return err
	})
	return out, err
}

// watch looks at what arrives at the receiving container.
func (f *flow) watch(ctx context.Context) {
	tick := time.NewTicker(flowLook)
	defer tick.Stop()
	var longest time.Duration
	moved, was := time.Now(), uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-f.marks:
			answer <- max(longest, time.Since(moved))
			longest = 0
		case <-tick.C:
			t, err := f.to.Traffic(lab.ContainerLink)
			if err != nil || t.InBytes-was < flowBytes {
				continue
			}
			f.looks.Add(1)
			longest = max(longest, time.Since(moved))
			moved, was = time.Now(), t.InBytes
		}
	}
}

// longest is the longest time that nothing arrived since it was last asked for.
func (f *flow) longest() time.Duration {
	answer := make(chan time.Duration, 1)
	select {
	case f.marks <- answer:
		return <-answer
	case <-f.w.Context().Done():
		return 0
	}
}

// runs waits until frames of the flow have arrived for half a second.
func (f *flow) runs() {
	f.w.Helper()
	from := f.looks.Load()
	f.w.eventually("the flow runs", func(context.Context) error {
		f.alive()
		if n := f.looks.Load() - from; n < flowRuns {
			return fmt.Errorf("frames arrived at %d of %d looks", n, flowRuns)
		}
		return nil
	})
}

// alive ends the test if the TCP connection has broken.
func (f *flow) alive() {
	f.w.Helper()
	select {
	case <-f.client.Done():
		f.w.Fatalf("iperf3 has ended: %v: %v", f.client.Err(), f.client.Tail(5))
	default:
	}
}

// end stops iperf3, whose connection has to have lived until now.
func (f *flow) end() {
	f.w.Helper()
	f.alive()
	f.stop()
	f.w.must(f.client.Kill())
	f.w.must(f.server.Kill())
}
