package main

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/config"
	"meshd/internal/udp"
	"meshd/transport"
)

func TestTransportUseCommand(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	t.Setenv(socketEnv, startServer(t, d))
	for _, tt := range []struct{ args, asked, out string }{
		{"weave02 sleeve", "02:00:00:00:00:02 sleeve", "frames to weave02 use sleeve\n"},
		{"02:00:00:00:00:03 auto", "02:00:00:00:00:03 ", "frames to 02:00:00:00:00:03 use the most preferred transport that works\n"},
		{"10.142.130.17 punch", "02:00:00:00:00:02 punch", "frames to 10.142.130.17 use punch\n"},
		{"02:00:00:00:00:99 auto", "02:00:00:00:00:99 ", "frames to 02:00:00:00:00:99 use the most preferred transport that works\n"},
	} {
		stdout, stderr, code := runCLI(t.Context(), strings.Fields("transport use "+tt.args)...)
		if asked, _ := d.asked(); code != exitOK || !slices.Equal(asked, []string{tt.asked}) || stdout != tt.out {
			t.Errorf("use %s = %d %q %q, asked for %q", tt.args, code, stdout, stderr, asked)
		}
	}
	d.mu.Lock()
	d.fail = errRefused
	d.mu.Unlock()
	for _, tt := range []struct {
		args, want string
		code       int
	}{
		{"weave02 quik", "meshd: refused for a test\n", exitFailure},
		{"nobody sleeve", "meshd: no peer has the name, nickname or address nobody\n", exitFailure},
		{"weave01 sleeve", "meshd: weave01 is this peer itself\n", exitFailure},
	} {
		_, stderr, code := runCLI(t.Context(), strings.Fields("transport use "+tt.args)...)
		if code != tt.code || stderr != tt.want {
			t.Errorf("use %s = %d %q, want %q", tt.args, code, stderr, tt.want)
		}
	}
	if _, _, code := runCLI(t.Context(), "transport", "use", "weave02"); code != exitUsage {
		t.Errorf("use without a transport = %d, want %d", code, exitUsage)
	}
}

func TestUseTransportRefusesBodies(t *testing.T) {
	h := newAPI(newFakeDaemon(healthyReport()), discard()).local()
	for _, body := range []string{"", "{", `{"peer":"x"}`, `{"peer":"02:00:00:00:00:02","colour":"red"}`} {
		if w := ask(h, "POST", "/v1/transport/use", body); w.Code != 400 {
			t.Errorf("POST %q = %d, want 400", body, w.Code)
		}
	}
}

// The order of announcing is that of the makers, and sleeve is the last of it. Of
// preference tcp is.
func TestTransportsAreAnnouncedInOneOrder(t *testing.T) {
	if got := strings.Join(transportNames(), " "); got != "punch quic tcp sleeve" {
		t.Errorf("transports are announced as %s: other meshds count in another order", got)
	}
	if got := strings.Join(config.Default().Transports, " "); got != "punch quic sleeve tcp" {
		t.Errorf("transports are preferred as %s", got)
	}
	p := preferences(config.Config{
		Transports: []string{"sleeve", "punch"},
		Overrides: []config.Override{
			{Name: testName(2), Transports: []string{"punch"}},
			{Net: netip.MustParsePrefix("10.0.0.0/8"), Transports: []string{"sleeve"}},
		},
	})
	for _, tt := range []struct {
		name byte
		addr string
		want string
	}{{2, "10.0.0.1", "punch"}, {3, "10.0.0.1", "sleeve"}, {3, "192.0.2.1", "sleeve punch"}} {
		if got := strings.Join(p.For(testName(tt.name), netip.MustParseAddr(tt.addr)), " "); got != tt.want {
			t.Errorf("preferences for %d at %s = %s, want %s", tt.name, tt.addr, got, tt.want)
		}
	}
}

// tcp has no UDP socket of its own, though it listens where sleeve's is.
func TestTransportReports(t *testing.T) {
	s := newSockets(udp.Offload{}, slog.New(slog.DiscardHandler))
	cfg := config.Default()
	cfg.Listen, cfg.UDP.Listen = "127.0.0.1:0", "127.0.0.1:1"
	if _, err := s.listen("listen", cfg.Listen); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]TransportReport{
		"punch": {Listen: "127.0.0.1:1"}, "sleeve": {Listen: "127.0.0.1:0", Sockets: make([]SocketReport, 1)}, "tcp": {Listen: "127.0.0.1:0"},
	} {
		got := newTransportReport(cfg, name, s)
		if got.Name != name || got.Listen != want.Listen || len(got.Sockets) != len(want.Sockets) {
			t.Errorf("report of %s = %+v, want %+v", name, got, want)
		}
	}
	for _, c := range s.open["127.0.0.1:0"] {
		c.Close()
	}
}

func TestPathNote(t *testing.T) {
	at := func(d time.Duration) *time.Time { x := now.Add(d); return &x }
	for want, p := range map[string]Path{
		"":                                    {Up: true, HealthySince: at(-time.Hour)},
		"blocked":                             {Why: "blocked"},
		"chosen by hand":                      {Up: true, Pinned: true},
		"loses too many probes":               {Up: true, Lossy: true},
		"healthy for 4 s, takes over at 10 s": {Up: true, HealthySince: at(-4 * time.Second), TakesOver: at(6 * time.Second)},
	} {
		if got := pathNote(&p, now); got != want {
			t.Errorf("pathNote(%+v) = %q, want %q", p, got, want)
		}
	}
	if got := pathState(&Path{Unused: true}); got != "unused" {
		t.Errorf("state %q of an unused path", got)
	}
}

// What status says of transports that were chosen by hand or are left out.
func TestChoiceProblems(t *testing.T) {
	down := transport.PathStats{Transport: "punch", State: transport.State{Why: "blocked"}}
	for _, tt := range []struct {
		name   string
		change func(first, second *transport.PathStats)
		code   string
		text   string
	}{
		{"fallback", func(_, _ *transport.PathStats) {}, "fallback", "frames go over sleeve; let UDP between us"},
		{"fallback from TCP", func(p, _ *transport.PathStats) { p.Transport = "tcp" }, "fallback", "frames go over sleeve; let TCP between us"},
		{"left out", func(p, _ *transport.PathStats) { p.Unused = true }, "", ""},
		{"chosen and down", func(p, _ *transport.PathStats) { p.Pinned = true }, "pin-down",
			"punch, chosen by hand for 02:00:00:00:00:02(weave02), does not work: blocked; frames go over sleeve until it does"},
		{"chosen and back", func(p, _ *transport.PathStats) { p.Pinned, p.State.Up = true, true }, "pin-waits", "takes over soon"},
		{"chosen and in use", func(_, s *transport.PathStats) { s.Pinned = true }, "pinned", "`meshd transport use 02:00:00:00:00:02 auto`"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := healthyReport()
			c := &r.Mesh.Connections[0]
			first := down
			c.Paths = append([]transport.PathStats{first}, c.Paths...)
			tt.change(&c.Paths[0], &c.Paths[1])
			var got []Problem
			s := newStatus(r, now)
			for _, p := range s.Problems {
				if p.Code == "fallback" || strings.HasPrefix(p.Code, "pin") {
					got = append(got, p)
				}
			}
			switch {
			case tt.code == "":
				if len(got) > 0 {
					t.Errorf("problems %+v, want none", got)
				}
			case len(got) != 1 || got[0].Code != tt.code || !strings.Contains(got[0].Text, tt.text):
				t.Errorf("problems %+v, want %s: %s", got, tt.code, tt.text)
			}
		})
	}
}
