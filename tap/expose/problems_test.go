package expose

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestProblems(t *testing.T) {
	for _, tt := range []struct{ name, harm, remedy, want string }{
		{"no forwarding", "echo 0 > /proc/sys/net/ipv4/ip_forward", "echo 1 > /proc/sys/net/ipv4/ip_forward",
			"nothing behind it: sysctl -w net.ipv4.ip_forward=1"},
		{"another table drops", "nft 'add table inet own; add chain inet own fw { type filter hook forward priority 0; policy drop; }'",
			"nft insert rule inet own fw iifname weave accept",
			"the chain fw of nftables table inet own drops what crosses the bridge weave: nft insert rule inet own fw iifname weave accept"},
		{"firewalld", "nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }; add rule inet firewalld filter_FORWARD reject'",
			"nft insert rule inet firewalld filter_FORWARD iifname weave accept", "--zone=trusted --add-interface=weave"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := build(t, "1")
			e := w.exposer(meshPorts)
			w.sh(tt.harm)
			w.set(e, ex99)
			if p := e.Problems(); len(p) != 1 || !strings.Contains(p[0], tt.want) {
				t.Errorf("Problems() = %q, want %q", p, tt.want)
			}
			w.sh(tt.remedy)
			e.repair()
			if p := e.Problems(); len(p) != 0 {
				t.Errorf("Problems() after the remedy = %q, want none", p)
			}
		})
	}
}

// The remedy of a problem that another program's chain is, typed as it is said,
// lets the overlay pass.
func TestRemedyWorks(t *testing.T) {
	w := build(t, "1")
	w.sh("nft 'add table inet own; add chain inet own fw { type filter hook forward priority 0; policy drop; }'")
	e := w.exposer(meshPorts)
	w.set(e, ex99)
	w.silent(w.c1, "10.0.0.2")
	_, remedy, _ := strings.Cut(e.Problems()[0], ": ")
	w.sh(remedy)
	w.pings(w.c1, "10.0.0.2")
	w.pings(w.c1, "192.168.99.12")
}

// What is over at the next look is not logged, what lasts is, once.
func TestProblemsAreLoggedOnce(t *testing.T) {
	var said strings.Builder
	e := &Exposer{cfg: Config{Bridge: "weave"}, log: slog.New(slog.NewTextHandler(&said, nil))}
	now := time.Unix(0, 0)
	for _, look := range []struct {
		after    time.Duration
		problems []string
	}{
		{0, []string{"lasts", "passes"}},
		{problemPause - 1, []string{"lasts", "passes"}},
		{1, []string{"lasts"}},
		{time.Hour, []string{"lasts", "passes"}},
		{problemPause - 1, []string{"lasts"}},
		{problemPause, nil},
	} {
		now = now.Add(look.after)
		e.logProblemsLocked(look.problems, now)
	}
	if got := strings.Count(said.String(), "problem=lasts"); got != 1 {
		t.Errorf("a problem that lasts is logged %d times, want once:\n%s", got, &said)
	}
	if strings.Contains(said.String(), "passes") {
		t.Errorf("a problem that passes is logged:\n%s", &said)
	}
}
