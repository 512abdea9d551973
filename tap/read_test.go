package tap

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// TestIdle: without frames the reader sleeps, however long, in one poll.
func TestIdle(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		w := wire(t, "weave", p.MTU())
		r, d := newReader(p.MTU(), mode == OffloadOn), p.dev.Load()
		thread := make(chan int, 1) // the reader sends each once
		ended := make(chan int, 1)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			thread <- unix.Gettid()
			frames, _ := r.batch(d)
			ended <- len(frames)
		}()
		awaitSleep(t, <-thread)
		// The kernel is busy meanwhile, with links too.
		noise := addBridge(t, "noise")
		for i := range 500 {
			must(t, netlink.LinkSetMTU(noise, 1000+i%2))
		}
		must(t, inject(w, fullBatch()[0].Data))
		select {
		case n := <-ended:
			if n != 1 {
				t.Fatalf("batch of %d frames", n)
			}
		case <-time.After(patience):
			d.interrupt()
			t.Fatal("the frame did not wake the reader")
		}
		// One more read finds that there is no second frame.
		if r.waits != 1 || r.spins != maxSpins || r.reads > maxSpins+3 {
			t.Errorf("%d polls, %d yields, %d reads; want 1, %d, at most %d", r.waits, r.spins, r.reads, maxSpins, maxSpins+3)
		}
	})
}

// awaitSleep waits until a thread of ours is in ppoll(2), which is what unix.Poll
// calls: /proc/PID/task/TID/syscall begins with the number.
func awaitSleep(t *testing.T, thread int) {
	t.Helper()
	path := fmt.Sprintf("/proc/self/task/%d/syscall", thread)
	if _, err := os.ReadFile(path); err != nil {
		t.Skipf("cannot tell what a thread does: %v", err)
	}
	eventually(t, "the reader sleeps", func() bool {
		now, err := os.ReadFile(path)
		must(t, err)
		number, _, _ := strings.Cut(string(now), " ")
		return number == strconv.Itoa(unix.SYS_PPOLL)
	})
}

// TestInterrupt: an interrupt wakes the reader, or keeps it from sleeping next.
func TestInterrupt(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		r, d := newReader(p.MTU(), mode == OffloadOn), p.dev.Load()
		for range 3 {
			d.interrupt()
			d.interrupt()
			if frames, err := r.batch(d); len(frames) != 0 || err != nil {
				t.Errorf("batch() = %d frames, %v; want none", len(frames), err)
			}
		}
		ended := make(chan error, 1) // the reader sends once
		go func() {
			_, err := r.batch(d)
			ended <- err
		}()
		must(t, d.close())
		select {
		case err := <-ended:
			if err == nil {
				t.Error("batch() of a closed device = nil error")
			}
		case <-time.After(patience):
			t.Fatal("close did not wake the reader")
		}
		d.interrupt() // late
		must(t, d.close())
	})
}

// TestDeadDeviceDoesNotSpin: a device that is down or gone gives an error at
// once, and the port waits longer each time.
func TestDeadDeviceDoesNotSpin(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		r, d := newReader(p.MTU(), mode == OffloadOn), p.dev.Load()
		must(t, netlink.LinkDel(link(t, "meshd0")))
		for range 3 {
			if _, err := r.batch(d); err == nil || r.reads > maxSpins+2 || r.waits > 1 {
				t.Errorf("batch() = %v after %d reads and %d polls", err, r.reads, r.waits)
			}
		}
	})
}

// TestDownDeviceDoesNotSpin: the same of one that somebody set down.
func TestDownDeviceDoesNotSpin(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		r, d := newReader(p.MTU(), mode == OffloadOn), p.dev.Load()
		must(t, netlink.LinkSetDown(link(t, "meshd0")))
		thread := make(chan int, 1)  // the reader sends once
		ended := make(chan struct{}) // closed by the reader
		go func() {
			defer close(ended)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			thread <- unix.Gettid()
			r.batch(d)
		}()
		awaitSleep(t, <-thread)
		noise := addBridge(t, "noise")
		for i := range 500 {
			must(t, netlink.LinkSetMTU(noise, 1000+i%2))
		}
		d.interrupt()
		<-ended
		if r.waits > 2 || r.reads > maxSpins+2 {
			t.Errorf("%d polls, %d reads; want at most 2, %d", r.waits, r.reads, maxSpins+2)
		}
	})
}

// TestSegmentsTooBig: a super-frame of a port with a higher MTU than the bridge's
// passes the bridge; its segments would not pass the mesh.
func TestSegmentsTooBig(t *testing.T) {
	s := stream{src: farContainer(1), dst: farContainer(2)}
	r := newReader(DefaultMTU, true)
	for _, tt := range []struct {
		f                frame.Frame
		segments, tooBig int
	}{
		{s.super(pattern(5000), DefaultMTU-40), 4, 0},
		{s.super(pattern(5000), DefaultMTU-40+9), 0, 4}, // room for two VLAN tags is there anyhow
		{stream{src: s.src, dst: s.dst, vlan: true}.super(pattern(5000), DefaultMTU-40), 4, 0},
		{s.partial(pattern(DefaultMTU-40), 0), 1, 0},
		{s.partial(pattern(DefaultMTU-40+9), 0), 0, 1},
	} {
		r.n, r.segments, r.tooBig, r.malformed = 0, 0, 0, 0
		var h [vnetLen]byte
		putVnet(&h, tt.f.Offload)
		r.take(append(h[:], tt.f.Data...), true)
		if r.segments != tt.segments || r.tooBig != tt.tooBig || r.malformed != 0 {
			t.Errorf("%s: %d segments, %d too big, %d malformed; want %d, %d, 0", describe(tt.f), r.segments, r.tooBig, r.malformed, tt.segments, tt.tooBig)
		}
	}
}
