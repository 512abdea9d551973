package lab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/nat/nattest"
)

// What a trace is about.
const (
	traceHosts   = 2 // behind one NAT
	traceSteps   = 80
	traceSockets = 2 * traceHosts
	traceRemotes = 4
)

// tracePorts are those of each host's sockets.
var tracePorts = [2]uint16{6785, 6786}

// traceStep is one step and what came of it.
type traceStep struct {
	what    string // "send" to a remote, "answer" to where a send was seen, "reboot"
	socket  int    // that sends
	remote  int    // that is sent to, or answers
	sent    int    // the send that is answered: an index of the world's seen
	got     string // what came of it
	arrived int    // the socket that got the answer; -1: none
}

func (s traceStep) String() string {
	switch s.what {
	case "send":
		return fmt.Sprintf("socket %d sends to remote %d: %s", s.socket, s.remote, s.got)
	case "answer":
		return fmt.Sprintf("remote %d sends to what was send %d: arrives at %d", s.remote, s.sent, s.arrived)
	}
	return s.what
}

// traceWorld is hosts behind a NAT and remotes, in memory or in the kernel.
type traceWorld struct {
	reboot  func() error
	sockets []end
	remotes []end
	seen    []netip.AddrPort // what each send looked like; not valid: it did not arrive
	names   map[uint16]string
	tag     int
	wg      sync.WaitGroup
}

func (w *traceWorld) end(s mux.Socket) end { return newEnd(s, &w.wg) }

func (w *traceWorld) close() {
	for _, e := range append(w.sockets, w.remotes...) {
		e.Close()
	}
	w.wg.Wait()
}

// do does a step. What comes of it is waited for this long.
func (w *traceWorld) do(s traceStep, wait time.Duration) (traceStep, error) {
	s.arrived = -1
	switch s.what {
	case "reboot":
		return s, w.reboot()
	case "send":
		from, ok, err := w.pass(w.sockets[s.socket], w.remotes[s.remote].LocalAddr(), w.remotes[s.remote], wait)
		w.seen = append(w.seen, from)
		s.got = "lost"
		if ok {
			s.got = w.name(s.socket, from)
		}
		return s, err
	}
	to := w.seen[s.sent]
	if !to.IsValid() {
		return s, nil
	}
	tag, err := w.send(w.remotes[s.remote], to)
	if err != nil {
		return s, err
	}
	s.arrived = w.anywhere(tag, wait)
	return s, nil
}

// name makes ports of two worlds comparable: others than the socket's own are
// numbered.
func (w *traceWorld) name(socket int, as netip.AddrPort) string {
	if as.Port() == tracePorts[socket%len(tracePorts)] {
		return "its own port"
	}
	if w.names[as.Port()] == "" {
		w.names[as.Port()] = fmt.Sprintf("port %d", len(w.names))
	}
	return w.names[as.Port()]
}

func (w *traceWorld) send(from end, to netip.AddrPort) (tag string, err error) {
	w.tag++
	tag = strconv.Itoa(w.tag)
	_, err = from.WriteBatch([]udp.Message{{Buf: []byte(tag), N: len(tag), Addr: to}}, false)
	return tag, err
}

func (w *traceWorld) pass(from end, to netip.AddrPort, at end, wait time.Duration) (netip.AddrPort, bool, error) {
	tag, err := w.send(from, to)
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	as, ok := at.awaits(tag, wait)
	return as, ok, nil
}

// anywhere is the socket at which a datagram arrives; -1: none.
func (w *traceWorld) anywhere(tag string, wait time.Duration) int {
	timeout := time.After(wait)
	for {
		var a arrival
		at := -1
		select {
		case a = <-w.sockets[0].in:
			at = 0
		case a = <-w.sockets[1].in:
			at = 1
		case a = <-w.sockets[2].in:
			at = 2
		case a = <-w.sockets[3].in:
			at = 3
		case <-timeout:
			return -1
		}
		if a.text == tag {
			return at
		}
	}
}

// memoryTrace does random steps in memory.
func memoryTrace(t *testing.T, kind nattest.Kind, r *rand.Rand) (steps []traceStep) {
	synctest.Test(t, func(t *testing.T) {
		n := nattest.New(nattest.Config{Seed: r.Uint64()})
		server := n.Site(nattest.SiteConfig{Addresses: 2}).Hosts[0]
		home := n.Site(nattest.SiteConfig{Kind: kind, Hosts: traceHosts})
		w := &traceWorld{names: map[uint16]string{}, reboot: func() error { home.Reboot(); return nil }}
		defer w.close()
		for _, h := range home.Hosts {
			for _, p := range tracePorts {
				s, err := h.Listen(netip.AddrPortFrom(h.Addrs[0], p))
				must(t, err)
				w.sockets = append(w.sockets, w.end(s))
			}
		}
		ss, err := server.ListenAll(nattest.STUNPort, nattest.STUNPort2)
		must(t, err)
		for _, s := range ss {
			w.remotes = append(w.remotes, w.end(s))
		}
		for range traceSteps {
			s := traceStep{what: "send", socket: r.IntN(traceSockets), remote: r.IntN(traceRemotes)}
			switch roll := r.IntN(100); {
			case roll < 3:
				s.what = "reboot"
			case roll < 50 && len(w.seen) > 0:
				s.what, s.sent = "answer", r.IntN(len(w.seen))
			}
			s, err := w.do(s, time.Microsecond) // in no time, so that nothing is forgotten
			must(t, err)
			steps = append(steps, s)
		}
	})
	return steps
}

// TestNATTrace: whatever two hosts behind a NAT and their remotes send each
// other, the kernel and nattest give it the same ports and let the same in.
//
//	2 hosts, 2 sockets each ── home-gw (── home-carrier) ── internet ── server, 2 addresses, 2 ports each
func TestNATTrace(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("MESHD_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("MESHD_SEED=%d repeats this run", seed)
	for n, kind := range NATKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			i := internet(t, newLab(t))
			server := site(t, i, "server", SiteConfig{Addresses: 2})
			home := site(t, i, "home", SiteConfig{NAT: kind, Hosts: []string{"a", "b"}})
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			// Of ports by chance two are equal once in a few hundred runs.
			const tries = 2
			for try := 1; ; try++ {
				must(t, home.Reboot())
				steps := memoryTrace(t, nattest.Kind(kind), r)
				difference := kernelTrace(t, server, home, steps)
				if difference == "" {
					return
				}
				t.Log(difference)
				if try == tries {
					t.Fatalf("the kernel's NAT and nattest's differ, %d times", tries)
				}
			}
		})
	}
}

// kernelTrace does steps in the kernel and describes the first difference; "":
// there is none.
func kernelTrace(t *testing.T, server, home *Site, steps []traceStep) string {
	t.Helper()
	w := &traceWorld{names: map[uint16]string{}, reboot: home.Reboot}
	defer w.close()
	listen := func(h *SiteHost, a netip.Addr, p uint16) end {
		c, err := h.ListenUDP(netip.AddrPortFrom(a, p))
		must(t, err)
		return w.end(c)
	}
	for _, h := range home.Hosts {
		for _, p := range tracePorts {
			w.sockets = append(w.sockets, listen(h, h.IPv4[0], p))
		}
	}
	for _, a := range server.Host().IPv4 {
		for _, p := range []uint16{nattest.STUNPort, nattest.STUNPort2} {
			w.remotes = append(w.remotes, listen(server.Host(), a, p))
		}
	}
	for n, want := range steps {
		wait := 5 * time.Second
		if want.arrived < 0 && (want.what == "answer" || want.got == "lost") {
			wait = 30 * time.Millisecond // for nothing
		}
		got, err := w.do(want, wait)
		must(t, err)
		if got != want {
			var text strings.Builder
			for _, s := range steps[:n] {
				fmt.Fprintln(&text, s)
			}
			return fmt.Sprintf("%sin memory: %v\nin the kernel: %v", &text, want, got)
		}
	}
	return ""
}
