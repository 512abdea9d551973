package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/routing/control"
	"meshd/routing/measure"
)

// tries has each kind of try to ping weave02 from weave01.
func tries() []measure.Try {
	us, peer, relay := testName(1), testName(2), testName(3)
	hop := func(via frame.PeerName, transport, addr string) measure.Hop {
		h := measure.Hop{Via: via, Transport: transport}
		if addr != "" {
			h.Addr = netip.MustParseAddrPort(addr)
		}
		return h
	}
	straight, relayed := hop(peer, "punch", "203.0.113.7:6785"), hop(relay, "punch", "10.0.0.3:6785")
	answer := func(rtt time.Duration, out, back measure.Hop) measure.Try {
		return measure.Try{Outcome: measure.Answered, RTT: rtt, Out: out, Back: back}
	}
	all := []measure.Try{
		answer(123456*time.Nanosecond, straight, hop(us, "punch", "")),
		answer(1234*time.Microsecond, straight, hop(us, "sleeve", "")),
		answer(12345*time.Microsecond, relayed, hop(relay, "punch", "")),
		answer(12*time.Millisecond, relayed, hop(testName(99), "sle\x1b[31meve", "")),
		answer(12*time.Millisecond, straight, hop(relay, "punch", "")),
		answer(123456*time.Microsecond, relayed, hop(us, "quic", "")),
		answer(2*time.Millisecond, straight, measure.Hop{}),
		answer(3*time.Millisecond, relayed, measure.Hop{}),
		answer(3*time.Millisecond, hop(relay, "", ""), hop(us, "", "")),
		{Outcome: measure.Lost, Out: straight},
		{Outcome: measure.Lost, Out: relayed},
		{Outcome: measure.NoRoute},
		{Outcome: measure.TooBig, Out: relayed, MTU: 1200},
		{Outcome: measure.Silent},
		{Outcome: measure.Refused},
	}
	for i := range all {
		all[i].Sequence = i + 1
	}
	return all
}

func TestPingTexts(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.tries = tries()
	t.Setenv(socketEnv, startServer(t, d))
	stdout, stderr, code := runCLI(t.Context(), "ping", "weave02", "-c", fmt.Sprint(len(d.tries)))
	if code != exitOK || stderr != "" {
		t.Errorf("ping = %d, %q", code, stderr)
	}
	golden(t, "ping.txt", withoutTime(t, stdout))
	stdout, stderr, code = runCLI(t.Context(), "ping", "weave02", "--json", "-c", fmt.Sprint(len(d.tries)))
	if code != exitOK || stderr != "" {
		t.Errorf("ping --json = %d, %q", code, stderr)
	}
	lines := strings.SplitAfter(stdout, "\n")
	last := len(lines) - 2
	var end struct{ Statistics PingStats }
	if err := json.Unmarshal([]byte(lines[last]), &end); err != nil || end.Statistics.Seconds <= 0 {
		t.Fatalf("last line = %q, %v", lines[last], err)
	}
	s := end.Statistics
	s.Seconds = 0
	golden(t, "ping.jsonl", strings.Join(lines[:last], "")+toJSON(t, s)+"\n")
	if s.Sent != 15 || s.Received != 9 || s.Direct != 2 || s.Relayed != 5 || s.Loss != 0.4 {
		t.Errorf("statistics = %+v", s)
	}
}

// Of a peer that is no neighbour it is not known whether it is a stock router.
func TestPingOfAPeerThatMayBeStock(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.report.Mesh.Peers = append(d.report.Mesh.Peers, control.PeerSnapshot{Name: testName(4), NickName: "weave04"})
	d.tries = []measure.Try{{Sequence: 1, Outcome: measure.Silent}, {Sequence: 2, Outcome: measure.Silent}}
	t.Setenv(socketEnv, startServer(t, d))
	for peer, want := range map[string]int{"weave02": 0, "weave04": 1} {
		_, stderr, code := runCLI(t.Context(), "ping", peer, "-c", "2")
		if got := strings.Count(stderr, "if "+peer+" is a stock Weave router"); code != exitNoAnswer || got != want {
			t.Errorf("ping %s = %d, %q, want it said %d times", peer, code, stderr, want)
		}
	}
}

// withoutTime replaces the time that the statistics say it took.
func withoutTime(t *testing.T, out string) string {
	t.Helper()
	head, tail, ok := strings.Cut(out, "loss, time ")
	_, tail, ok2 := strings.Cut(tail, "ms\n")
	if !ok || !ok2 {
		t.Fatalf("no statistics in %q", out)
	}
	return head + "loss, time XXms\n" + tail
}

func TestPingHelp(t *testing.T) {
	stdout, _, code := runCLI(t.Context(), "ping", "--help")
	if code != exitOK {
		t.Errorf("ping --help = %d", code)
	}
	golden(t, "ping-help.txt", stdout)
}

// A line is direct only where both ends sent straight to each other.
func TestPongIsDirect(t *testing.T) {
	yes, no := true, false
	us, peer, relay := measure.Hop{Via: testName(1)}, measure.Hop{Via: testName(2)}, measure.Hop{Via: testName(3)}
	names := nickNames{of: func() map[frame.PeerName]string { return map[frame.PeerName]string{} }}
	for _, tt := range []struct {
		name      string
		out, back measure.Hop
		want      *bool
	}{
		{"both straight", peer, us, &yes},
		{"relay out", relay, us, &no},
		{"relay back", peer, relay, &no},
		{"relays", relay, relay, &no},
		{"not told", peer, measure.Hop{}, nil},
		{"answers that go to who sent them", peer, peer, &no},
	} {
		p := newPong(measure.Try{Outcome: measure.Answered, RTT: 1, Out: tt.out, Back: tt.back}, testName(2), testName(1), &names)
		if toJSON(t, p.Direct) != toJSON(t, tt.want) {
			t.Errorf("%s: direct = %s, want %s", tt.name, toJSON(t, p.Direct), toJSON(t, tt.want))
		}
		if got := strings.Contains(pongText(&p, time.Second), "direct"); got != (tt.want == &yes) {
			t.Errorf("%s: %s", tt.name, pongText(&p, time.Second))
		}
	}
}

func TestPingSpread(t *testing.T) {
	least, mean, most, deviation := spread([]float64{1, 2, 3, 6})
	if *least != 1 || *mean != 3 || *most != 6 || fmt.Sprintf("%.3f", *deviation) != "1.871" {
		t.Errorf("spread = %g %g %g %g", *least, *mean, *most, *deviation)
	}
}

// Nicknames are asked for when somebody new shows up, and not again.
func TestNickNames(t *testing.T) {
	asked := 0
	n := nickNames{of: func() map[frame.PeerName]string {
		asked++
		return map[frame.PeerName]string{testName(1): "weave01", testName(2): "weave02"}
	}}
	for range 3 {
		for peer, want := range map[frame.PeerName]string{testName(1): "weave01", testName(2): "weave02"} {
			if got := n.name(peer); got != want {
				t.Errorf("name(%v) = %q, want %q", peer, got, want)
			}
		}
	}
	for range 3 {
		if got := n.name(testName(9)); got != "" {
			t.Errorf("name of a stranger = %q", got)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
}

func TestPingExitCodes(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.report.Mesh.Peers = append(d.report.Mesh.Peers, control.PeerSnapshot{Name: testName(4), NickName: "weave04"})
	path := startServer(t, d)
	answer, lost := tries()[0], measure.Try{Sequence: 1, Outcome: measure.Lost}
	for _, tt := range []struct {
		args  string
		tries []measure.Try
		fail  error
		code  int
		want  string // in stderr
	}{
		{"weave02 -c 1", []measure.Try{answer}, nil, exitOK, ""},
		{"weave02 -c 2", []measure.Try{lost, answer}, nil, exitOK, ""},
		{"02:00:00:00:00:02 -c 1", []measure.Try{answer}, nil, exitOK, ""},
		{"10.142.130.17 -c 1", []measure.Try{answer}, nil, exitOK, ""},
		{"weave02 -c 1", []measure.Try{lost}, nil, exitNoAnswer, ""},
		{"weave04 -c 1", []measure.Try{{Sequence: 1, Outcome: measure.NoRoute}}, nil, exitNoAnswer, ""},
		{"weave09", nil, nil, exitNoPing, "no peer has the name, nickname or address weave09"},
		{"weave01", nil, nil, exitNoPing, "weave01 is this peer itself"},
		{"weave03", nil, nil, exitNoPing, "02:00:00:00:00:03(weave03) is a stock Weave router and answers no pings; ping a container's address instead"},
		{"weave02", nil, measure.ErrTooManyPings, exitNoPing, "too many pings are running here"},
		{"weave02 -c 2", []measure.Try{answer}, nil, exitNoPing, "has ended"},
		{"weave02", []measure.Try{answer}, nil, exitNoPing, "has ended"},
		{"weave02 --socket /does/not/exist", nil, nil, exitNoPing, "no meshd is running here"},
		{"", nil, nil, exitUsage, "too few words"},
		{"weave02 -c -1", nil, nil, exitUsage, "--count -1 is negative"},
		{"weave02 -i 0.1", nil, nil, exitUsage, "--interval 0.1 is not from 0.2 to 3600 seconds"},
		{"weave02 -i NaN", nil, nil, exitUsage, "--interval NaN is not"},
		{"weave02 -i x", nil, nil, exitUsage, "invalid argument"},
		{"weave02 -s 53", nil, nil, exitUsage, "--size 53 is less than 54 bytes"},
		{"weave02 -W 0", nil, nil, exitUsage, "--timeout 0 is not"},
	} {
		d.mu.Lock()
		d.tries, d.fail = tt.tries, tt.fail
		d.mu.Unlock()
		t.Run(tt.args, func(t *testing.T) {
			t.Setenv(socketEnv, path)
			stdout, stderr, code := runCLI(t.Context(), strings.Fields("ping "+tt.args)...)
			if code != tt.code || !strings.Contains(stderr, tt.want) || tt.want == "" && stderr != "" {
				t.Errorf("ping %s = %d, %q, want %d, %q", tt.args, code, stderr, tt.code, tt.want)
			}
			if begun := len(tt.tries) > 0; strings.Contains(stdout, "packets transmitted") != begun {
				t.Errorf("ping %s printed %q", tt.args, stdout)
			}
		})
	}
}

func TestPingAPI(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.tries = tries()[:1]
	h := newAPI(d, discard())
	const good = `{"peer":"02:00:00:00:00:02","count":3,"interval":0.5,"size":100,"timeout":1.5}`
	for _, tt := range []struct {
		body string
		fail error
		code int
	}{
		{good, nil, 200},
		{strings.Replace(good, "00:02", "00:99", 1), nil, 422},
		{strings.Replace(good, "00:02", "00:03", 1), nil, 422},
		{strings.Replace(good, "02:00:00:00:00:02", "weave02", 1), nil, 400},
		{strings.Replace(good, "count", "counts", 1), nil, 400},
		{strings.Replace(good, "0.5", "0.1", 1), nil, 400},
		{strings.Replace(good, "1.5", "1e300", 1), nil, 400},
		{strings.Replace(good, "100", "0", 1), nil, 400},
		{`{"peer":"02:00:00:00:00:02"}`, nil, 400},
		{good, measure.ErrTooManyPings, 409},
	} {
		d.fail = tt.fail
		if w := ask(h.local(), "POST", "/v1/ping", tt.body); w.Code != tt.code {
			t.Errorf("POST %s = %d %s, want %d", tt.body, w.Code, w.Body, tt.code)
		}
	}
	if want := (measure.PingOptions{Count: 3, Interval: 500 * time.Millisecond, Size: 100, Timeout: 1500 * time.Millisecond}); d.pings != want {
		t.Errorf("asked for %+v, want %+v", d.pings, want)
	}
	if w := ask(h.public(), "POST", "/v1/ping", good); w.Code != http.StatusNotFound {
		t.Errorf("POST /v1/ping on TCP = %d", w.Code)
	}
}

// Lines appear at once; Ctrl-C ends the ping at the daemon too, and prints what was.
func TestPingIsInterrupted(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.tries, d.hang = tries()[:1], make(chan struct{})
	t.Setenv(socketEnv, startServer(t, d))
	ctx, cancel := context.WithCancel(t.Context())
	var out cancelAtLine
	out.cancel = func() {
		<-d.hang // the daemon waits: what is printed was not held back
		out.cancel = func() {}
		cancel()
	}
	var errs strings.Builder
	code := execute(ctx, []string{"ping", "weave02"}, &out, &errs)
	if code != exitOK || errs.Len() > 0 || !strings.Contains(out.String(), "1 packets transmitted, 1 received, 0% packet loss") {
		t.Errorf("ping = %d, %q, %q", code, out.String(), errs.String())
	}
	select {
	case <-d.hang:
	case <-time.After(10 * time.Second):
		t.Fatal("the ping goes on without its client")
	}
}

// A daemon that ends takes its pings with it.
func TestPingEndsWithTheServer(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.tries, d.hang = tries()[:1], make(chan struct{})
	s, err := listenSocket(shortDir(t) + "/meshd.sock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- serve(ctx, s, newAPI(d, discard()).local(), discard()) }()
	answered := make(chan error)
	go func() {
		req := pingRequest{Peer: testName(2).String(), Interval: 1, Size: 56, Timeout: 1}
		answered <- newClient(s.Addr().String()).ping(t.Context(), req, func(*Pong) error { return nil })
	}()
	<-d.hang
	stop()
	<-d.hang
	if err := <-answered; err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("ping = %v, want it to say that the daemon has ended", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Lines have to come in time.
func TestPingOfADaemonThatHangs(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.tries, d.hang = tries()[:1], make(chan struct{})
	path := startServer(t, d)
	c := newClient(path)
	c.timeout = 100 * time.Millisecond
	answered := make(chan error)
	go func() {
		answered <- c.ping(t.Context(), pingRequest{Peer: testName(2).String(), Interval: 0.2, Size: 56, Timeout: 0.1}, func(*Pong) error { return nil })
	}()
	<-d.hang
	if err := <-answered; err == nil || !strings.Contains(err.Error(), "does not answer within 400ms") {
		t.Errorf("ping = %v", err)
	}
	<-d.hang
	full := errors.New("disk full")
	go func() { <-d.hang; <-d.hang }()
	c.timeout = 10 * time.Second
	err := c.ping(t.Context(), pingRequest{Peer: testName(2).String(), Interval: 0.2, Size: 56, Timeout: 0.1}, func(*Pong) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("ping = %v, want the error of who prints", err)
	}
}

// Two real daemons, a cable between them; then one is killed, and the other one.
func TestPingBetweenDaemons(t *testing.T) {
	a := startUp(t)
	b := startUp(t, "--name", "02:00:00:00:00:02", "--nickname", "weave02", "--peers", "192.0.2.1")
	cable(t, a, b)
	c := newClient(a.socket)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s, err := c.status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p, _ := findPeer(s, "weave02"); p != nil && p.Reachable {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the daemons do not meet: %+v", s.Connections)
		}
	}
	t.Setenv(socketEnv, a.socket)
	stdout, stderr, code := runCLI(t.Context(), "ping", "weave02", "-c", "3", "-i", "0.2", "-s", "1376")
	if code != exitOK || strings.Count(stdout, " direct over ") != 3 || !strings.Contains(stdout, "3 packets transmitted, 3 received, 0% packet loss") {
		t.Errorf("ping = %d %s%s", code, stdout, stderr)
	}
	t.Log(stdout)
	for args, want := range map[string]string{
		"weave01":         "weave01 is this peer itself",
		"weave09":         "no peer has the name",
		"weave02 -s 9000": "whose MTU is 1376: ask for 1376 bytes at most",
	} {
		if stdout, stderr, code := runCLI(t.Context(), strings.Fields("ping "+args)...); code != exitNoPing || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("ping %s = %d %s%s", args, code, stdout, stderr)
		}
	}
	var pongs []*Pong
	ended := make(chan error)
	go func() {
		ended <- c.ping(t.Context(), pingRequest{Peer: testName(2).String(), Interval: 0.2, Size: 56, Timeout: 0.5}, func(p *Pong) error {
			switch pongs = append(pongs, p); {
			case p.Sequence == 2:
				return b.cmd.Process.Kill()
			case p.Outcome == measure.NoRoute: // the neighbour was given up
				return a.cmd.Process.Signal(syscall.SIGTERM)
			}
			return nil
		})
	}()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("ping = %v, want it to say that the daemon has ended", err)
	}
	lost := 0
	for _, p := range pongs {
		lost += toInt(p.Outcome == measure.Lost)
	}
	if lost == 0 || len(pongs) > 40 {
		t.Errorf("%d of %d echoes to a peer that was killed were lost", lost, len(pongs))
	}
}
