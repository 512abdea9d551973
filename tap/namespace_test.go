package tap

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// patience is how long tests wait for what must happen.
const patience = 10 * time.Second

// namespace moves the test's goroutine into a network namespace of its own. The
// thread is not given back: it ends with the goroutine, and the namespace with
// it. Subtests are other goroutines: they make their own.
func namespace(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if err := checkHost(); err != nil {
		t.Skipf("needs a TAP driver: %v", err)
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make network namespaces")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
}

// backends runs a test with each backend, in a namespace of its own.
func backends(t *testing.T, test func(t *testing.T, mode string)) {
	for _, mode := range []string{OffloadOn, OffloadOff} {
		t.Run("offload "+mode, func(t *testing.T) {
			namespace(t)
			test(t, mode)
		})
	}
}

// open opens a port in the test's namespace and closes it at the end.
func open(t testing.TB, cfg Config) *Port {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return p
}

// run runs the port until the test ends, or the returned function is called, and
// returns the frames that it reads.
func run(t testing.TB, p *Port) (frames chan []byte, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	frames = make(chan []byte, 1024)
	ended := make(chan error, 1)
	go func() {
		ended <- p.Run(ctx, func(batch []frame.Frame) {
			for _, f := range batch {
				select {
				case frames <- slices.Clone(f.Data):
				default:
				}
			}
		})
	}()
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run() = %v, want nil", err)
			}
		case <-time.After(patience):
			t.Error("Run did not return after its context was done")
		}
	}
	t.Cleanup(stop)
	return frames, stop
}

// wire is a second TAP on the bridge: what a container's interface is.
func wire(t testing.TB, bridge string, mtu int) *device {
	t.Helper()
	d, err := openPortable("wire0", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.close() })
	if err := setIPv6("wire0", portSettings); err != nil {
		t.Fatal(err)
	}
	d.index = join(t, "wire0", bridge, mtu)
	return d
}

// join puts a device on a bridge, and returns its index.
func join(t testing.TB, name, bridge string, mtu int) int {
	t.Helper()
	l := link(t, name)
	must(t, netlink.LinkSetMTU(l, mtu))
	must(t, netlink.LinkSetUp(l))
	must(t, netlink.LinkSetMaster(l, link(t, bridge)))
	return l.Attrs().Index
}

func link(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return l
}

// addBridge makes a bridge that is not meshd's.
func addBridge(t testing.TB, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	return link(t, name)
}

// addTAP makes a TAP that stays without a process.
func addTAP(t testing.TB, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE}))
	return link(t, name)
}

// links lists the names of the namespace's devices with their kinds.
func links(t testing.TB) []string {
	t.Helper()
	all, err := netlink.LinkList()
	must(t, err)
	names := map[string]bool{}
	for _, l := range all {
		names[l.Attrs().Name+" "+l.Type()] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ethernet builds a frame.
func ethernet(dst, src frame.MAC, body ...byte) []byte {
	return slices.Concat(dst[:], src[:], body)
}

// eventually polls until ok, and fails the test with what if that takes too long.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

// inject sends a frame from the wire onto the bridge.
func inject(w *device, data []byte) error {
	_, err := unix.Write(w.fd, data)
	return err
}

// readFrame reads frames of a device until one equals want.
func readFrame(d *device, want []byte, timeout time.Duration) bool {
	buf := make([]byte, 70000)
	for deadline := time.Now().Add(timeout); ; {
		n, err := unix.Read(d.fd, buf)
		switch {
		case err == nil && string(buf[:n]) == string(want):
			return true
		case err == nil:
			continue
		case err != unix.EAGAIN && err != unix.EINTR:
			return false
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
	}
}

// receive takes frames from a channel until one equals want.
func receive(frames <-chan []byte, want []byte, timeout time.Duration) bool {
	t := time.NewTimer(timeout)
	defer t.Stop()
	for {
		select {
		case f := <-frames:
			if string(f) == string(want) {
				return true
			}
		case <-t.C:
			return false
		}
	}
}

func isUp(l netlink.Link) bool { return l.Attrs().Flags&net.FlagUp != 0 }
