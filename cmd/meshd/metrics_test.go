package main

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"meshd/routing/control"
	"meshd/transport"
)

// scrape returns the metrics of a report.
func scrape(t *testing.T, r Report) string {
	t.Helper()
	w := httptest.NewRecorder()
	newAPI(newFakeDaemon(r), discard()).metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("GET /metrics = %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	const peer2 = `{nickname="weave02",peer="02:00:00:00:00:02",transport="sleeve"}`
	tests := []struct {
		name   string
		report Report
		want   []string
		absent []string
	}{
		{"healthy", healthyReport(), []string{
			`weave_connections{encryption="",state="established",type="sleeve"} 0`,
			`weave_connections{encryption="yes",state="established",type="sleeve"} 2`,
			`weave_connection_terminations_total 1`,
			`meshd_peers 3`, `meshd_peers_reachable 3`, `meshd_targets 1`,
			`meshd_problems{severity="error"} 0`, `meshd_problems{severity="note"} 1`,
			`meshd_port_joined{bridge="weave",device="meshd0"} 1`,
			`meshd_mac_entries 2`, `meshd_mac_events_total{event="move"} 1`,
			`meshd_forwarder_frames_total{way="from-port"} 1203`,
			`meshd_forwarder_drops_total{reason="too-big"} 4`,
			`meshd_path_up` + peer2 + ` 1`, `meshd_path_active` + peer2 + ` 1`,
			`meshd_path_encrypted` + peer2 + ` 1`, `meshd_path_authenticated` + peer2 + ` 1`,
			`meshd_port_offload{bridge="weave",device="meshd0"} 1`,
			`meshd_socket_offload{address="[::]:6783",kind="gso",transport="sleeve"} 1`,
			`meshd_socket_offload{address="[::]:6783",kind="gro",transport="sleeve"} 0`,
			`meshd_path_mtu_bytes` + peer2 + ` 1414`, `meshd_path_rtt_seconds` + peer2 + ` 0.00043`, `meshd_path_loss_ratio` + peer2 + ` 0`,
			`meshd_path_frames_total{direction="tx",nickname="weave02",peer="02:00:00:00:00:02",transport="sleeve"} 1200`,
			`meshd_path_bytes_total{direction="rx",nickname="weave02",peer="02:00:00:00:00:02",transport="sleeve"} 64000`,
			`meshd_path_datagrams_total{direction="tx",nickname="weave02",peer="02:00:00:00:00:02",transport="sleeve"} 900`,
			`meshd_path_drops_total{direction="rx",nickname="weave02",peer="02:00:00:00:00:02",reason="auth",transport="sleeve"} 2`,
			`meshd_neighbour_control_rtt_seconds{nickname="weave03",peer="02:00:00:00:00:03"} 0.00183`,
			`meshd_path_min_rtt_seconds` + peer2 + ` 0.00031`,
			`meshd_sessions{carrier="tcp"} 2`,
			`meshd_sessions{carrier="quic"} 0`,
			`meshd_neighbour_transport_switches_total{nickname="weave02",peer="02:00:00:00:00:02"} 0`,
			`meshd_path_handshakes_total` + peer2 + ` 2`, `meshd_path_rekeys_total` + peer2 + ` 0`,
			`meshd_port_frames_total{bridge="weave",device="meshd0",direction="read"} 1203`,
			`meshd_port_bytes_total{bridge="weave",device="meshd0",direction="written"} 64000`,
			`meshd_stray_drops_total{reason="malformed"} 7`,
			`go_goroutines `, `process_open_fds `,
		}, []string{
			// Unknown figures are absent, never 0.
			`meshd_path_rtt_seconds{nickname="weave03"`, `meshd_path_loss_ratio{nickname="weave03"`,
			`meshd_path_min_rtt_seconds{nickname="weave03"`,
		}},
		{"broken", brokenReport(), []string{
			`weave_connections{encryption="",state="failed",type="unknown"} 2`,
			`weave_connections{encryption="",state="pending",type="sleeve"} 1`,
			`meshd_path_up` + peer2 + ` 0`, `meshd_peers_reachable 3`,
			`meshd_problems{severity="error"} 3`,
			`meshd_port_joined{bridge="weave",device="meshd0"} 0`,
		}, []string{`meshd_path_mtu_bytes` + peer2}},
		{"open", openReport(), []string{
			`meshd_path_encrypted{nickname="weave02",peer="02:00:00:00:00:02",transport="punch"} 1`,
			`meshd_path_authenticated{nickname="weave02",peer="02:00:00:00:00:02",transport="punch"} 0`,
			`meshd_path_encrypted{nickname="weave03",peer="02:00:00:00:00:03",transport="sleeve"} 0`,
			`meshd_port_offload{bridge="weave",device="meshd0"} 0`,
		}, nil},
		{"relayed", relayedReport(), []string{
			`meshd_peers 5`, `meshd_peers_reachable 5`,
			`meshd_peers_by_path{path="direct"} 2`, `meshd_peers_by_path{path="relayed"} 2`, `meshd_peers_by_path{path="none"} 0`,
			`meshd_stun_messages_total{result="answered"} 12`, `meshd_stun_messages_total{result="malformed"} 1`,
			`meshd_stun_messages_total{result="unasked"} 2`, `meshd_stun_messages_total{result="forged"} 3`,
			`meshd_stun_messages_total{result="excess"} 4`, `meshd_stun_messages_total{result="refused"} 5`,
			`meshd_stun_messages_total{result="withheld"} 6`,
			`meshd_signals_refused_total{reason="forged"} 1`, `meshd_signals_refused_total{reason="replayed"} 2`,
			`meshd_signals_refused_total{reason="refused"} 3`, `meshd_signals_refused_total{reason="excess"} 4`,
		}, nil},
		{"empty", Report{}, []string{`weave_connection_terminations_total 0`, `meshd_peers 0`, `meshd_peers_by_path{path="direct"} 0`},
			[]string{"meshd_path_", "meshd_port_mtu_bytes", "meshd_stun_", "meshd_signals_"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := scrape(t, tt.report)
			for _, want := range tt.want {
				if !strings.Contains(got, "\n"+want) {
					t.Errorf("no line %q in\n%s", want, ours(got))
				}
			}
			for _, line := range tt.absent {
				if strings.Contains(got, "\n"+line) {
					t.Errorf("there is a line %q in\n%s", line, ours(got))
				}
			}
		})
	}
}

// ours leaves out what every Go program has.
func ours(metrics string) string {
	return regexp.MustCompile(`(?m)^(# \w+ )?(go|process)_.*\n`).ReplaceAllString(metrics, "")
}

func TestMetricsLint(t *testing.T) {
	for name, r := range map[string]Report{"healthy": healthyReport(), "broken": brokenReport(), "open": openReport(), "relayed": relayedReport()} {
		problems, err := promlint.New(strings.NewReader(ours(scrape(t, r)))).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", name, p.Metric, p.Text)
		}
	}
}

// Weave's own metrics keep their names, types, help and labels.
func TestMetricsAreWeaves(t *testing.T) {
	got := scrape(t, healthyReport())
	for line := range strings.Lines(weaveFile(t, "metrics-with-ipam.txt")) {
		if regexp.MustCompile(`^# \w+ weave_connection`).MatchString(line) && !strings.Contains(got, line) {
			t.Errorf("no line %q", line)
		}
	}
	labels := regexp.MustCompile(`(?m)^weave_connections\{encryption="\w*",state="\w+",type="\w+"\} \d+$`)
	if !labels.MatchString(weaveFile(t, "metrics-with-ipam.txt")) || !labels.MatchString(got) {
		t.Errorf("weave_connections does not have weave's labels:\n%s", ours(got))
	}
}

// What peers say of themselves must not break a scrape: two connections to one
// peer, two paths over one transport, texts that are not UTF-8.
func TestMetricsSurviveHostilePeers(t *testing.T) {
	r := healthyReport()
	c := r.Mesh.Connections[0]
	c.NickName = "\xff\"\n# TYPE evil counter\nevil 1\n\\" + strings.Repeat("\u202e", 10_000)
	c.Paths = append(c.Paths, c.Paths[0], transport.PathStats{Transport: "quic"})
	r.Mesh.Connections = append(r.Mesh.Connections, c, c, control.ConnectionSnapshot{Address: "\xff", State: control.StateConnecting})
	r.Mesh.Connections[0] = c
	got := scrape(t, r)
	for line := range strings.Lines(ours(got)) {
		if !strings.HasPrefix(line, "#") && !regexp.MustCompile(`^(meshd|weave)_\w+(\{.*\})? \S+\n$`).MatchString(line) || len(line) > 8<<10 {
			t.Errorf("a nickname breaks the line %.200q of %d bytes", line, len(line))
		}
	}
	if problems, err := promlint.New(strings.NewReader(ours(got))).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if n := strings.Count(got, `meshd_path_up{nickname="`); n != 3 {
		t.Errorf("%d paths, want sleeve and quic of one peer and sleeve of another:\n%s", n, ours(got))
	}
}
