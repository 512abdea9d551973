package tap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// crossing is two hosts of one process, whose ports are joined:
//
//	container 1 ── bridge ── port 1 ══ carry ══ port 2 ── bridge ── container 2
type crossing struct {
	ports      [2]*Port
	containers [2]*container
	supers     [2]atomic.Uint64 // super-frames read by each port
	longest    [2]atomic.Uint64 // bytes
	runs       [2]atomic.Uint64 // those of UDP
}

// newCrossing makes a crossing of ports with these modes. carry returns what
// becomes of frames on the way; what it returns is borrowed until the next call.
func newCrossing(t *testing.T, modes [2]string, carry func() func([]frame.Frame) []frame.Frame) *crossing {
	c := new(crossing)
	for i := range c.ports {
		inNamespace(t, newNamespace(t), func() {
			c.ports[i] = open(t, Config{CreateBridge: true, Offload: modes[i]})
			c.containers[i] = addContainer(t, "weave", c.ports[i].MTU(), i+1)
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, len(c.ports)) // each Run sends once
	for i, p := range c.ports {
		change, to := carry(), c.ports[1-i]
		go func() {
			ended <- p.Run(ctx, func(frames []frame.Frame) {
				c.note(i, frames)
				to.Write(change(frames))
			})
		}()
	}
	t.Cleanup(func() {
		cancel()
		for range c.ports {
			if err := <-ended; err != nil {
				t.Errorf("Run() = %v", err)
			}
		}
	})
	return c
}

func (c *crossing) note(port int, frames []frame.Frame) {
	for _, f := range frames {
		if f.Offload.GSOType != frame.GSONone {
			c.supers[port].Add(1)
			if f.Offload.GSOType == frame.GSOUDP {
				c.runs[port].Add(1)
			}
			c.longest[port].Store(max(c.longest[port].Load(), uint64(len(f.Data))))
		}
	}
}

// asIs carries frames as they are.
func asIs() func([]frame.Frame) []frame.Frame {
	return func(frames []frame.Frame) []frame.Frame { return frames }
}

// asSegments carries frames as a wire does.
func asSegments() func([]frame.Frame) []frame.Frame {
	var cutter frame.Cutter
	var memory []byte
	var out []frame.Frame
	return func(frames []frame.Frame) []frame.Frame {
		memory, out = memory[:0], out[:0]
		for _, f := range frames {
			if cutter.Begin(f) != nil {
				continue
			}
			for {
				from := len(memory)
				seg, ok := cutter.Next(memory)
				if !ok {
					break
				}
				memory = seg
				out = append(out, frame.Frame{Data: memory[from:]})
			}
		}
		return out
	}
}

// TestStreams sends TCP streams and UDP runs both ways through two ports.
func TestStreams(t *testing.T) {
	for _, tt := range []struct {
		modes [2]string
		carry func() func([]frame.Frame) []frame.Frame
		how   string
	}{
		{[2]string{OffloadOn, OffloadOn}, asIs, "whole"},
		{[2]string{OffloadOn, OffloadOn}, asSegments, "as segments"},
		{[2]string{OffloadOn, OffloadOff}, asIs, "whole"},
		{[2]string{OffloadOff, OffloadOff}, asIs, "whole"},
	} {
		t.Run(fmt.Sprint(tt.modes, " ", tt.how), func(t *testing.T) {
			namespace(t)
			c := newCrossing(t, tt.modes, tt.carry)
			for family := range 2 {
				c.tcp(t, family)
				c.udp(t, family)
			}
			for i, mode := range tt.modes {
				if got := c.supers[i].Load() > 0; got != (mode == OffloadOn) {
					t.Errorf("port %d read super-frames: %v", i, got)
				}
				// A stream's are full once it runs.
				if got := c.longest[i].Load(); mode == OffloadOn && i == 0 && got < 32<<10 {
					t.Errorf("port %d read super-frames of at most %d bytes", i, got)
				}
				// A run that a container sends in one call is one read.
				want := uint64(0)
				if c.ports[i].dev.Load().features&unix.TUN_F_USO4 != 0 {
					want = 2 // IPv4 and IPv6
				}
				if got := c.runs[i].Load(); got != want {
					t.Errorf("port %d read %d runs of UDP, want %d", i, got, want)
				}
				if s := c.ports[i].Stats(); s.Drops["malformed"] != 0 || s.Drops["refused"] != 0 {
					t.Errorf("port %d: drops %v", i, s.Drops)
				}
				if o := c.ports[i].Offload(); o.On != (mode == OffloadOn) {
					t.Errorf("port %d: Offload() = %+v", i, o)
				}
			}
		})
	}
}

// tcp sends a file to container 2, which answers with its hash.
func (c *crossing) tcp(t *testing.T, family int) {
	t.Helper()
	file := pattern(8 << 20)
	addr := netip.AddrPortFrom(c.containers[1].addrs[family], 5001)
	var listener net.Listener
	var err error
	c.containers[1].do(func() { listener, err = net.Listen("tcp", addr.String()) })
	must(t, err)
	defer listener.Close()
	deadline := time.Now().Add(3 * patience)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(deadline)
		h := sha256.New()
		io.Copy(h, conn)
		conn.Write(h.Sum(nil))
	}()
	var conn net.Conn
	c.containers[0].do(func() { conn, err = (&net.Dialer{Deadline: deadline}).Dial("tcp", addr.String()) })
	must(t, err)
	defer conn.Close()
	conn.SetDeadline(deadline)
	_, err = conn.Write(file)
	must(t, err)
	must(t, conn.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(conn)
	must(t, err)
	if want := sha256.Sum256(file); !bytes.Equal(got, want[:]) {
		t.Errorf("IPv%d: SHA-256 of what arrived = %x, want %x", 4+2*family, got, want)
	}
}

// udp sends a run of datagrams in one call to container 2, and one back.
func (c *crossing) udp(t *testing.T, family int) {
	t.Helper()
	const size, count = 1200, 40
	var conns [2]*net.UDPConn
	for i := range conns {
		var err error
		c.containers[i].do(func() {
			conns[i], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.containers[i].addrs[family], 5002)))
		})
		must(t, err)
		defer conns[i].Close()
		must(t, conns[i].SetDeadline(time.Now().Add(patience)))
	}
	for i := range conns {
		from, to := conns[i], conns[1-i]
		run := pattern(size*(count-1) + 100)
		if err := segmentSize(from, size); err != nil {
			t.Logf("this kernel sends no runs of datagrams: %v", err)
			return
		}
		_, err := from.WriteToUDP(run, to.LocalAddr().(*net.UDPAddr))
		must(t, err)
		buf := make([]byte, 2*size)
		for len(run) > 0 {
			n, err := to.Read(buf)
			must(t, err)
			want := run[:min(size, len(run))]
			if !bytes.Equal(buf[:n], want) {
				t.Fatalf("IPv%d: a datagram of %d bytes, want %d bytes of another sort", 4+2*family, n, len(want))
			}
			run = run[len(want):]
		}
	}
}

// segmentSize lets the kernel cut what is written into datagrams of size bytes.
func segmentSize(conn *net.UDPConn, size int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	}), err)
}
