package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"meshd/internal/frame"
	"meshd/routing/control"
	"meshd/routing/measure"
)

func TestWayTo(t *testing.T) {
	m := healthyReport().Mesh
	m.Peers = append(m.Peers,
		control.PeerSnapshot{Name: testName(4), NickName: "weave04"},
		control.PeerSnapshot{Name: testName(5), NickName: "weave05"},
		control.PeerSnapshot{Name: testName(6), NickName: "weave06"})
	m.Unicast = append(m.Unicast,
		control.UnicastRoute{Dest: testName(4), Via: testName(3)}, control.UnicastRoute{Dest: testName(6), Via: testName(5)})
	mtu := 1414
	tests := []struct {
		name string
		peer frame.PeerName
		want BenchWay
		err  string
	}{
		{"a neighbour", testName(2), BenchWay{
			Peer: "02:00:00:00:00:02", NickName: "weave02", Direct: true, Via: "02:00:00:00:00:02", ViaNickName: "weave02",
			Transport: "sleeve", Address: "10.142.130.17:6783", MTU: &mtu, Encrypted: true, Authenticated: true,
		}, ""},
		{"over a stock router", testName(4), BenchWay{
			Peer: "02:00:00:00:00:04", NickName: "weave04", Via: "02:00:00:00:00:03", ViaNickName: "weave03",
			Transport: "sleeve", Address: "10.107.153.153:6783", MTU: &mtu, Encrypted: true, Authenticated: true,
		}, ""},
		{"ourselves", testName(1), BenchWay{}, "02:00:00:00:00:01 is this peer itself"},
		{"a stock router", testName(3), BenchWay{}, "02:00:00:00:00:03(weave03) is a stock Weave router"},
		{"unknown", testName(99), BenchWay{}, "no peer has the name 02:00:00:00:00:63"},
		{"no route", testName(5), BenchWay{}, "no connection leads to 02:00:00:00:00:05(weave05)"},
		{"a route without a connection", testName(6), BenchWay{}, "no connection leads to 02:00:00:00:00:06(weave06)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wayTo(m, tt.peer)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("wayTo = %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || toJSON(t, got) != toJSON(t, tt.want) {
				t.Errorf("wayTo = %s, %v, want %s", toJSON(t, got), err, toJSON(t, tt.want))
			}
		})
	}
}

func TestBenchTexts(t *testing.T) {
	direct, err := wayTo(openReport().Mesh, testName(2))
	if err != nil {
		t.Fatal(err)
	}
	relayed := BenchWay{Peer: "02:00:00:00:00:04", NickName: "weave04", Via: "02:00:00:00:00:03", ViaNickName: "weave03", Transport: "sleeve"}
	bad := measured(time.Second)
	bad.Highest, bad.Limit = measure.Rate{}, measure.LimitTime
	bad.Held, bad.Loaded = measure.Held{Sent: 10, Time: time.Second}, measure.RTT{Sent: 1}
	for name, b := range map[string]Bench{
		"bench-direct.txt":  newBench(measured(5*time.Second), direct, direct),
		"bench-relayed.txt": newBench(bad, relayed, direct),
	} {
		var out strings.Builder
		if err := printBench(&out, &b); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
	data, err := json.MarshalIndent(newBench(measured(5*time.Second), direct, direct), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "bench.json", string(data)+"\n")
}

func TestRateTexts(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 9.99: "9.99", 12.34: "12.3", 999.4: "999", 999.6: "1.00k", 1234: "1.23k", 99_960: "100k", 3.917e9: "3.92G", 2e15: "2000T",
	} {
		if text, prefix := siText(v); text+prefix != want {
			t.Errorf("siText(%g) = %q, %q, want %q", v, text, prefix, want)
		}
	}
	for share, want := range map[float64]string{0: "0.00%", 0.00001: "<0.01%", 0.0123: "1.23%", 1: "100.00%"} {
		if got := finePercent(share); got != want {
			t.Errorf("finePercent(%g) = %q, want %q", share, got, want)
		}
	}
}

func TestBenchCommand(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	t.Setenv(socketEnv, startServer(t, d))
	stdout, stderr, code := runCLI(t.Context(), "bench", "weave02", "--time", "3s", "--json")
	var b Bench
	if err := json.Unmarshal([]byte(stdout), &b); err != nil || code != exitOK || b.Seconds != 3 || b.Peer != testName(2).String() {
		t.Errorf("bench --json = %d %s%s, %v", code, stdout, stderr, err)
	}
	if stdout, stderr, code = runCLI(t.Context(), "bench", "10.142.130.17"); code != exitOK || !strings.Contains(stdout, "3.96 Gbit/s") {
		t.Errorf("bench = %d %s%s", code, stdout, stderr)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"bench"}, exitUsage, "too few words"},
		{[]string{"bench", "weave02", "--time", "0s"}, exitUsage, "is not from 1s to 1m0s"},
		{[]string{"bench", "weave02", "--time", "2m"}, exitUsage, "is not from 1s to 1m0s"},
		{[]string{"bench", "weave09"}, exitFailure, "no peer has the name, nickname or address weave09"},
		{[]string{"bench", "weave01"}, exitFailure, "weave01 is this peer itself"},
		{[]string{"bench", "weave03"}, exitFailure, "is a stock Weave router"},
	} {
		if stdout, stderr, code := runCLI(t.Context(), tt.args...); code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v = %d %s%s, want %d %s", tt.args, code, stdout, stderr, tt.code, tt.want)
		}
	}
	d.mu.Lock()
	d.fail = measure.ErrBusy
	d.mu.Unlock()
	if _, stderr, code = runCLI(t.Context(), "bench", "weave02"); code != exitFailure || !strings.Contains(stderr, "another measurement is running") {
		t.Errorf("bench while another runs = %d %s", code, stderr)
	}
}

func TestBenchAPIFaults(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	h := newAPI(d, discard())
	for _, tt := range []struct {
		body string
		fail error
		code int
	}{
		{`{"peer":"02:00:00:00:00:02","seconds":1}`, nil, 200},
		{`{"peer":"02:00:00:00:00:02","seconds":-1e300}`, nil, 200},
		{`{"peer":"weave02"}`, nil, 400},
		{`{"peer":"02:00:00:00:00:02","secs":1}`, nil, 400},
		{`{"peer":"02:00:00:00:00:99"}`, nil, 422},
		{`{"peer":"02:00:00:00:00:02"}`, measure.ErrPeerBusy, 409},
		{`{"peer":"02:00:00:00:00:02"}`, fmt.Errorf("measure: %w", measure.ErrSilent), 422},
	} {
		d.fail = tt.fail
		if w := ask(h.local(), "POST", "/v1/bench", tt.body); w.Code != tt.code {
			t.Errorf("POST %s = %d %s, want %d", tt.body, w.Code, w.Body, tt.code)
		}
	}
	if w := ask(h.public(), "POST", "/v1/bench", `{}`); w.Code != http.StatusNotFound {
		t.Errorf("POST /v1/bench on TCP = %d", w.Code)
	}
}

// A measurement ends with the client, and with the daemon.
func TestBenchEndsWithItsClient(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.hang = make(chan struct{})
	path := startServer(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() {
		_, err := newClient(path).bench(ctx, testName(2).String(), time.Minute)
		answered <- err
	}()
	<-d.hang
	cancel()
	if err := <-answered; err == nil {
		t.Error("bench = nil")
	}
	select {
	case <-d.hang:
	case <-time.After(10 * time.Second):
		t.Fatal("the measurement goes on without its client")
	}
	go newClient(path).bench(t.Context(), testName(2).String(), time.Minute)
	<-d.hang
	go func() { <-d.hang }() // when the server ends
}

// Two real daemons, a cable between them.
func TestBenchBetweenDaemons(t *testing.T) {
	a := startUp(t)
	b := startUp(t, "--name", "02:00:00:00:00:02", "--nickname", "weave02", "--peers", "192.0.2.1")
	cable(t, a, b)
	var s *Status
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var err error
		if s, err = newClient(a.socket).status(t.Context()); err != nil {
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
	stdout, stderr, code := runCLI(t.Context(), "bench", "weave02", "--time", "1s", "--json")
	var got Bench
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK {
		t.Fatalf("bench = %d %s%s", code, stdout, stderr)
	}
	if !got.Direct || got.Idle.Received == 0 || got.Sustained.Received == 0 || got.FrameBytes < 1000 {
		t.Errorf("bench = %s", stdout)
	}
	for _, p := range []*upProcess{a, b} {
		s, err := newClient(p.socket).status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Forwarder.ToPort.Frames > 200 {
			t.Errorf("%d frames came out on a bridge", s.Forwarder.ToPort.Frames)
		}
	}
	if _, stderr, code = runCLI(t.Context(), "bench", "weave01"); code != exitFailure || !strings.Contains(stderr, "this peer itself") {
		t.Errorf("bench of ourselves = %d %s", code, stderr)
	}
	t.Log(stdout)
}

// cable connects two daemons: 192.0.2.1 and 192.0.2.2.
func cable(t *testing.T, a, b *upProcess) {
	t.Helper()
	ha, hb := a.netlink(t), b.netlink(t)
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "cable0"}, PeerName: "cable0", PeerNamespace: netlink.NsFd(b.ns.FD()),
	}
	if err := ha.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for i, h := range []*netlink.Handle{ha, hb} {
		l, err := h.LinkByName("cable0")
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(fmt.Sprintf("192.0.2.%d/24", i+1))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.AddrAdd(l, addr); err != nil {
			t.Fatal(err)
		}
		if err := h.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
}
