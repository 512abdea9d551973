package peer

import (
	"encoding/json"
	"slices"
	"testing"
)

const sample = `{
	"pid": 7, "name": "02:00:00:00:00:01", "nickname": "weave01", "unknown": {"ignored": true},
	"connections": [
		{"address": "10.0.0.9:6783", "state": "failed", "error": "refused", "mtu": null},
		{"address": "10.0.0.2:6783", "state": "established", "name": "02:00:00:00:00:02", "uid": "18446744073709551615",
		 "paths": [{"transport": "punch", "active": false, "up": false}, {"transport": "sleeve", "active": true, "up": true, "mtu": 1410}]},
		{"address": "10.0.0.3:6783", "state": "pending", "name": "02:00:00:00:00:03", "paths": [{"transport": "sleeve"}]}
	],
	"peers": [
		{"name": "02:00:00:00:00:02", "reachable": true}, {"name": "02:00:00:00:00:03", "reachable": false}
	],
	"routes": {"unicast": [{"dest": "02:00:00:00:00:02", "via": "02:00:00:00:00:04"}]}
}`

func TestReport(t *testing.T) {
	var r Report
	if err := json.Unmarshal([]byte(sample), &r); err != nil {
		t.Fatal(err)
	}
	c, ok := r.Active("02:00:00:00:00:02")
	if !ok || c.Address != "10.0.0.2:6783" || c.UID != 1<<64-1 {
		t.Errorf("Active = %+v, %v, want the established connection", c, ok)
	}
	if _, ok := r.Active("02:00:00:00:00:03"); ok {
		t.Error("Active of a pending connection = true, want false")
	}
	for name, want := range map[string]bool{
		"02:00:00:00:00:02": true, "02:00:00:00:00:03": false, "02:00:00:00:00:99": false,
	} {
		if got := r.Reaches(name); got != want {
			t.Errorf("Reaches(%s) = %v, want %v", name, got, want)
		}
	}
	if got := r.Via("02:00:00:00:00:02"); got != "02:00:00:00:00:04" {
		t.Errorf("Via = %q, want the route's neighbour", got)
	}
	if got := r.Via("02:00:00:00:00:03"); got != "" {
		t.Errorf("Via of a peer without a route = %q, want none", got)
	}
}

func TestMetric(t *testing.T) {
	body := []byte("# HELP go_goroutines Number\n# TYPE go_goroutines gauge\ngo_goroutines 31\n" +
		"go_goroutines_total 9\ngo_memstats_heap_alloc_bytes 1.234e+06\n")
	if got, err := metric(body, "go_goroutines"); got != 31 || err != nil {
		t.Errorf("metric = %v, %v, want 31", got, err)
	}
	if got, err := metric(body, "go_memstats_heap_alloc_bytes"); got != 1234000 || err != nil {
		t.Errorf("metric = %v, %v, want 1234000", got, err)
	}
	if _, err := metric(body, "nothing"); err == nil {
		t.Error("metric that is not there = nil, want an error")
	}
}

func TestCommandLine(t *testing.T) {
	p, err := New(nil, Config{
		Dir: t.TempDir(), Name: "02:00:00:00:00:01", NickName: "weave01",
		Peers: []string{"10.0.0.2", "10.0.0.3"}, Args: []string{"--discovery=false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"up", "--name", "02:00:00:00:00:01", "--nickname", "weave01",
		"--state-dir", p.Dir + "/state", "--api-socket", p.Dir + "/api.sock",
		"--discovery=false", "10.0.0.2", "10.0.0.3",
	}
	if got := p.CommandLine(); !slices.Equal(got, want) {
		t.Errorf("CommandLine = %q, want %q", got, want)
	}
}

func TestPeerThatIsDown(t *testing.T) {
	p, err := New(nil, Config{Dir: t.TempDir(), NickName: "weave01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Report(t.Context()); err == nil {
		t.Error("Report of a peer that is down = nil, want an error")
	}
	for name, f := range map[string]func() error{
		"Kill": p.Kill, "Freeze": p.Freeze, "Thaw": p.Thaw, "Down": func() error { return p.Down(0) },
	} {
		if err := f(); err == nil {
			t.Errorf("%s of a peer that is down = nil, want an error", name)
		}
	}
}

func TestSumOf(t *testing.T) {
	body := []byte("# TYPE frames counter\nframes{way=\"in\"} 3\nframes{way=\"a b\"} 1.5e1\nframes_lost 7\nplain 2\nbad{x=\"y\"} z\n")
	for name, want := range map[string]float64{"frames": 18, "frames_lost": 7, "plain": 2} {
		if got, err := sumOf(body, name); got != want || err != nil {
			t.Errorf("sumOf %s = %v, %v, want %v", name, got, err, want)
		}
	}
	for _, name := range []string{"nothing", "bad", "frame"} {
		if got, err := sumOf(body, name); err == nil {
			t.Errorf("sumOf %s = %v, want an error", name, got)
		}
	}
}
