package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"meshd/internal/lab/peer"
)

// refused starts meshd, which has to end by itself with exit code 1, one line of
// explanation that has all the words, and nothing left behind.
func (h *host) refused(words ...string) {
	h.w.Helper()
	before, err := h.Host.Links()
	h.w.must(err)
	h.start()
	select {
	case <-h.Last().Done():
	case <-time.After(patience):
		h.w.Fatalf("%s: meshd up goes on, want it to refuse", h.NickName)
	}
	if exit, ok := errors.AsType[*exec.ExitError](h.Last().Err()); !ok || exit.ExitCode() != 1 {
		h.w.Errorf("meshd up ended with %v, want exit code 1", h.Last().Err())
	}
	line := h.Tail(1)[0]
	for _, word := range words {
		if !strings.Contains(strings.ToLower(line), strings.ToLower(word)) {
			h.w.Errorf("meshd up says %q, want %q in it", line, word)
		}
	}
	after, err := h.Host.Links()
	h.w.must(err)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		h.w.Errorf("interfaces %v became %v, want them as before", before, after)
	}
	h.w.Logf("%s", line)
}

// TestStartRefused: each reason not to start is one clear sentence.
func TestStartRefused(t *testing.T) {
	once(t)
	for _, tt := range []struct {
		name  string
		setUp func(w *world, h *host)
		words []string
	}{
		{"not root", func(w *world, h *host) {
			h.UID = 65534
			// What it would write to is not what this is about.
			w.must(os.Chmod(h.Dir, 0o777))
		}, []string{"root"}},
		{"no TUN device", func(w *world, h *host) { h.Hide = []string{"/dev/net"} }, []string{"/dev/net/tun"}},
		{"TCP port taken", func(w *world, h *host) {
			_, err := h.Host.Listen("tcp", ":6783")
			w.must(err)
		}, []string{"6783", fmt.Sprint(os.Getpid())}},
		{"UDP port taken", func(w *world, h *host) {
			_, err := h.Host.ListenPacket("udp", ":6783")
			w.must(err)
		}, []string{"6783", fmt.Sprint(os.Getpid())}},
		{"bridge is another kind of device", func(w *world, h *host) {
			w.must(w.lan("other").Plug(h.Host, peer.DefaultBridge))
		}, []string{peer.DefaultBridge, "veth", "bridge"}},
		{"no bridge and none wanted", func(w *world, h *host) {
			h.Args = []string{"--bridge-create=false"}
		}, []string{peer.DefaultBridge}},
		{"name of the port taken", func(w *world, h *host) {
			w.must(w.lan("other").Plug(h.Host, "meshd0"))
		}, []string{"meshd0", "veth"}},
		{"name of the port is another program's TAP", func(w *world, h *host) {
			w.must(h.Host.AddTap("meshd0", "somebody else's"))
		}, []string{"meshd0", "taken"}},
		{"socket is a file", func(w *world, h *host) {
			w.must(os.WriteFile(h.Socket(), []byte("precious"), 0o644))
		}, []string{"api.sock", "not a socket"}},
		{"listen address of another host", func(w *world, h *host) {
			h.Args = []string{"--listen", "10.9.9.9:6783"}
		}, []string{"10.9.9.9:6783"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := w.host("weave01", w.lan("lan").at("10.0.0.1/24"))
			tt.setUp(w, h)
			h.refused(tt.words...)
		})
	}
}

// TestSecondDaemon: one daemon per network namespace, and one per socket; the
// first one does not notice.
//
//	weave01 ── lan ── weave02
func TestSecondDaemon(t *testing.T) {
	once(t)
	t.Parallel()
	w, lan, hosts, boxes := pair(t)
	pid := fmt.Sprint(hosts[0].report().PID)

	second, err := peer.New(hosts[0].Host, peer.Config{
		Binary: suite.binary, Dir: hosts[0].Dir + "-second", Name: "02:00:00:00:00:99", NickName: "second",
		Args: []string{"--listen", ":6799", "--tap-name", "meshd9", "--bridge-name", "weave9"},
	})
	w.must(err)
	(&host{Peer: second, w: w}).refused("another", "namespace", pid)

	other := w.host("weave03", lan.at("10.0.0.3/24"))
	other.Args = []string{"--api-socket", hosts[0].Socket()}
	other.refused("another", "listens", pid)

	w.answers(boxes...)
	w.joined(hosts...)
}

// TestTakeover: what a killed daemon left is taken over by the next: socket,
// bridge with its containers, and a port that outlived its owner.
//
//	weave01 ── lan ── weave02
func TestTakeover(t *testing.T) {
	t.Parallel()
	w, _, hosts, boxes := pair(t)
	a := hosts[0]
	a.kill()
	if _, err := os.Stat(a.Socket()); err != nil {
		t.Errorf("%v, want the socket of the killed daemon to be there", err)
	}
	if conn, err := net.Dial("unix", a.Socket()); err == nil {
		conn.Close()
		t.Error("somebody listens on the killed daemon's socket")
	}
	// As if our TAP had outlived us; it bears our mark.
	w.must(a.Host.AddTap("meshd0", "meshd"))
	a.again()
	a.ready()
	w.joined(hosts...)
	w.answers(boxes...)
}

// TestClientWithoutDaemon: a missing daemon is one clear sentence and exit code 1.
func TestClientWithoutDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host("weave01", w.lan("lan").at("10.0.0.1/24"))
	for _, args := range [][]string{
		{"status"}, {"status", "--json"}, {"report"}, {"connect", "10.0.0.2"}, {"forget", "10.0.0.2"},
		{"transport", "list"}, {"transport", "stats"}, {"reload"},
	} {
		out, err := h.Command(w.within(patience), args...)
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 1 || out != "" {
			t.Errorf("meshd %v = %q, %v, want exit code 1", args, out, err)
			continue
		}
		said := strings.TrimSpace(string(exit.Stderr))
		if strings.Contains(said, "\n") || !strings.Contains(said, h.Socket()) {
			t.Errorf("meshd %v says %q, want one line that names %s", args, said, h.Socket())
		}
	}
}
