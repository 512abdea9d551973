package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
)

// What iperf3 3.12 prints, cut down to what matters.
const (
	iperfOne = `{"start":{"version":"iperf 3.12"},"intervals":[],"end":{"streams":[],
"sum_sent":{"bytes":1100,"bits_per_second":8800,"retransmits":7,"sender":true},
"sum_received":{"bytes":1000,"bits_per_second":8000,"sender":true}}}`
	iperfBoth = `{"end":{
"sum_sent":{"bytes":1100,"bits_per_second":8800,"retransmits":7},
"sum_received":{"bytes":1000,"bits_per_second":8000},
"sum_sent_bidir_reverse":{"bytes":510,"bits_per_second":4100,"retransmits":2},
"sum_received_bidir_reverse":{"bytes":500,"bits_per_second":4000}}}`
)

func TestParseIperf(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     throughput
		fault    string
	}{
		{"one stream", iperfOne, throughput{8000, 1000, 7}, ""},
		{"both directions", iperfBoth, throughput{12000, 1500, 9}, ""},
		{"a warning before", "warning: something\n" + iperfOne, throughput{8000, 1000, 7}, ""},
		{"an error", `{"start":{},"error":"the server is busy running a test. try again later"}`, throughput{}, "server is busy"},
		{"nothing received", `{"end":{"sum_received":{"bytes":0}}}`, throughput{}, "nothing was received"},
		{"no JSON", "iperf3: not found", throughput{}, "not found"},
		{"cut off", iperfOne[:100], throughput{}, "EOF"},
		{"empty", "", throughput{}, "iperf3"},
	} {
		got, err := parseIperf([]byte(tt.in))
		if got != tt.want || (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: parseIperf = %+v, %v; want %+v, %q", tt.name, got, err, tt.want, tt.fault)
		}
	}
}

func FuzzParseIperf(f *testing.F) {
	f.Add([]byte(iperfOne))
	f.Add([]byte(iperfBoth))
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseIperf(b)
		if err == nil && (!(got.bps > 0) || !(got.bytes > 0)) {
			t.Errorf("parseIperf = %+v without an error", got)
		}
	})
}

func TestListens(t *testing.T) {
	const table = "  sl  local_address rem_address   st tx_queue rx_queue\n" +
		"   0: 00000000000000000000000000000000:1451 00000000000000000000000000000000:0000 0A 00000000:00000000\n" +
		"   1: 0100007F:1F90 0200007F:1451 01 00000000:00000000\n"
	for port, want := range map[int]bool{5201: true, 8080: false, 0x145: false, 81: false} {
		if got := listens(table, port); got != want {
			t.Errorf("listens(%d) = %v, want %v", port, got, want)
		}
	}
}

func TestFindProgram(t *testing.T) {
	if got, err := findProgram("sh"); err != nil || !strings.HasPrefix(got, "/") {
		t.Errorf("findProgram(sh) = %q, %v, want an absolute path", got, err)
	}
	if _, err := findProgram("no-such-program-anywhere"); err == nil {
		t.Error("a program that is not there was found")
	}
	if got, err := firstLine(t.Context(), "b", "sh", "-c", "echo a; echo ' b '; exit 1"); got != "b" || err != nil {
		t.Errorf("firstLine = %q, %v, want b although the exit code is 1", got, err)
	}
	if _, err := firstLine(context.Background(), "c", "sh", "-c", "echo a"); err == nil {
		t.Error("firstLine found what is not there")
	}
}

func TestEncodeRoundTrip(t *testing.T) {
	r := sampleResults()
	b, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	var got results
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	if got.summary() != r.summary() || got.page() != r.page() || got.chart() != r.chart() {
		t.Error("what is read from JSON looks otherwise than what was written")
	}
	if lines := strings.Count(string(b), `{"round":`); lines != len(r.Samples) || strings.Count(string(b), "\n    {\"round\"") != lines {
		t.Errorf("%d lines of samples, want %d:\n%s", lines, len(r.Samples), b)
	}
	empty, err := (&results{}).encode()
	if err != nil || !json.Valid(empty) {
		t.Errorf("no samples: %s, %v", empty, err)
	}
}
