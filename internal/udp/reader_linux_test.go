package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asleep starts a ReadBatch and waits until its thread sleeps in poll.
func asleep(t *testing.T, c *Conn, ms []Message) (result <-chan error) {
	t.Helper()
	tid, done := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		_, err := c.ReadBatch(ms)
		done <- err
	}()
	path, want := fmt.Sprintf("/proc/self/task/%d/syscall", <-tid), fmt.Sprintf("%d ", unix.SYS_PPOLL)
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrPermission) {
			t.Skip("threads cannot be watched:", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(b), want) {
			return done
		}
		if time.Now().After(deadline) {
			t.Fatalf("the reader is at %q, not asleep in poll", b)
		}
	}
}

// TestSleep: a reader with nothing to read sleeps; a datagram wakes it, and Close
// does.
func TestSleep(t *testing.T) {
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		a, b := listenWith(t, ip, o), listenWith(t, ip, o)
		ms := buffers(1)
		done := asleep(t, b, ms)
		if _, err := a.WriteBatch([]Message{message(1, 10, b.LocalAddr())}, true); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || ms[0].N != 10 {
			t.Errorf("ReadBatch = %v with %d bytes, want 10", err, ms[0].N)
		}
		done = asleep(t, b, ms)
		if err := b.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch = %v, want %v", err, net.ErrClosed)
		}
		again, err := Listen(b.LocalAddr(), o) // Close has freed the port
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	})
}

// TestSleepAfterErrors: an ICMP error wakes the reader, and then it sleeps again.
func TestSleepAfterErrors(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a, gone := listenOn(t, ip), listenOn(t, ip)
		a.OnTooBig(func(dst netip.AddrPort, mtu int) { t.Errorf("told of %v, %d", dst, mtu) })
		gone.Close()
		for range 3 {
			if n, err := a.WriteBatch([]Message{message(1, 10, gone.LocalAddr()), message(2, 20, gone.LocalAddr())}, true); n != 2 || err != nil {
				t.Fatalf("WriteBatch = %d, %v", n, err)
			}
		}
		done := asleep(t, a, buffers(1))
		a.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch = %v, want %v", err, net.ErrClosed)
		}
	})
}
