package udp

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProbe: a kernel that takes both options passes on its own.
func TestProbe(t *testing.T) {
	c := listenWith(t, loopbacks["IPv4"], Offload{GSO: true, GRO: true})
	if o := c.Offload(); !o.GSO || !o.GRO {
		t.Skip(o.Why)
	}
	if o := Probe(); o != (Offload{GSO: true, GRO: true}) {
		t.Errorf("Probe = %+v, want all", o)
	}
}

// TestSickKernels plays kernels that lack or mangle something.
func TestSickKernels(t *testing.T) {
	healthy := canary{listen: Listen, read: (*Conn).ReadBatch, wait: canaryWait}
	if o := healthy.try(); !o.GSO || !o.GRO {
		t.Skip(o.Why)
	}
	// onRead spoils what a socket with or without GRO reads.
	onRead := func(gro bool, spoil func(m *Message)) func(*Conn, []Message) (int, error) {
		return func(c *Conn, ms []Message) (int, error) {
			n, err := c.ReadBatch(ms)
			for i := range ms[:n] {
				if c.Offload().GRO == gro {
					spoil(&ms[i])
				}
			}
			return n, err
		}
	}
	lacking := func(gso, gro bool) func(netip.AddrPort, Offload) (*Conn, error) {
		return func(addr netip.AddrPort, o Offload) (*Conn, error) {
			c, err := Listen(addr, Offload{GSO: o.GSO && !gso, GRO: o.GRO && !gro})
			if err == nil && (o.GSO && gso || o.GRO && gro) {
				got := c.Offload().without(gso, gro, "this kernel has it not")
				c.offload.Store(&got)
			}
			return c, err
		}
	}
	refusing := func(err error, only func(netip.Addr) bool) func(netip.AddrPort, Offload) (*Conn, error) {
		return func(addr netip.AddrPort, o Offload) (*Conn, error) {
			if only(addr.Addr()) {
				return nil, os.NewSyscallError("bind", err)
			}
			return Listen(addr, o)
		}
	}
	tests := []struct {
		name     string
		listen   func(netip.AddrPort, Offload) (*Conn, error)
		read     func(*Conn, []Message) (int, error)
		gso, gro bool
		why      string
	}{
		{"no GSO", lacking(true, false), nil, false, false, "has it not"},
		{"no GRO", lacking(false, true), nil, true, false, "has it not"},
		{"a bit is turned in what was cut", nil, onRead(false, func(m *Message) { m.Buf[m.N-1] ^= 1 }), false, false, "other bytes"},
		{"a bit is turned in long ones only", nil, onRead(false, func(m *Message) {
			if m.N == 8972 {
				m.Buf[8000] ^= 0x80
			}
		}), false, false, "8972 bytes"},
		{"the last one is cut", nil, onRead(false, func(m *Message) {
			if m.N == 1371 {
				m.N--
			}
		}), false, false, "1370 bytes"},
		{"a datagram is emptied", nil, onRead(false, func(m *Message) { m.N = 0 }), false, false, "0 bytes"},
		{"not cut at all", nil, onRead(true, func(m *Message) { m.Segment = 0 }), true, false, "bytes, not"},
		{"cut elsewhere", nil, onRead(true, func(m *Message) { m.Segment += m.Segment / 1000 }), true, false, "bytes, not"},
		{"a bit is turned in a run", nil, onRead(true, func(m *Message) { m.Buf[m.N/2] ^= 4 }), true, false, "other bytes"},
		{"one too many", nil, onRead(true, func(m *Message) {
			if m.Segment == 13 && m.N%13 == 0 {
				m.N += 13
			}
		}), true, false, "more arrive"},
		{"one is lost", nil, onRead(true, func(m *Message) {
			if m.Segment == 1200 {
				m.N -= 1200
			}
		}), true, false, "bytes, not"},
		{"no IPv6", refusing(unix.EADDRNOTAVAIL, netip.Addr.Is6), nil, true, true, ""},
		{"no loopback", refusing(unix.EADDRNOTAVAIL, netip.Addr.IsValid), nil, true, true, "not tried"},
		{"no sockets", refusing(unix.EMFILE, netip.Addr.Is6), nil, false, false, unix.EMFILE.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := healthy
			if tt.listen != nil {
				k.listen = tt.listen
			}
			if tt.read != nil {
				k.read = tt.read
			}
			o := k.try()
			if o.GSO != tt.gso || o.GRO != tt.gro || !strings.Contains(o.Why, tt.why) || (o.Why == "") != (tt.why == "") {
				t.Errorf("try = %+v, want GSO %v, GRO %v, why %q", o, tt.gso, tt.gro, tt.why)
			}
		})
	}
}

// TestCanaryDies: a kernel that loses runs ends the trial.
func TestCanaryDies(t *testing.T) {
	k := canary{listen: Listen, wait: 10 * time.Millisecond, read: func(c *Conn, ms []Message) (int, error) {
		if _, err := c.ReadBatch(ms); err != nil {
			return 0, err
		}
		return c.ReadBatch(ms) // what was read first is lost; the watchdog ends this one
	}}
	if o := k.try(); o.GSO || o.GRO || !strings.Contains(o.Why, "arrive") {
		t.Errorf("try = %+v, want none", o)
	}
}

// TestProbeWithoutLoopback: where nothing passes loopback, nothing is known of
// runs, and they are left on.
func TestProbeWithoutLoopback(t *testing.T) {
	for _, was := range []string{"down", "up"} {
		type result struct {
			o   Offload
			err error
		}
		done := make(chan result)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with its namespace
			err := unix.Unshare(unix.CLONE_NEWNET)
			for _, to := range []string{was, "down"} {
				if err == nil {
					err = exec.Command("ip", "link", "set", "lo", to).Run()
				}
			}
			var o Offload
			if err == nil {
				o = Probe()
			}
			done <- result{o, err}
		}()
		r := <-done
		if r.err != nil {
			t.Skip(r.err)
		}
		if !r.o.GSO || !r.o.GRO || !strings.Contains(r.o.Why, "not tried") {
			t.Errorf("Probe = %+v where lo was %s and is down, want all, not tried", r.o, was)
		}
	}
}
