package lab

import (
	"net/netip"
	"testing"
	"time"
)

func TestChecksum(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want uint16
	}{
		{"RFC 1071 example", []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0x220d},
		{"odd length", []byte{0x01, 0x02, 0x03}, 0xfbfd},
		{"empty", nil, 0xffff},
	} {
		if got := checksum(tt.in); got != tt.want {
			t.Errorf("%s: checksum = %04x, want %04x", tt.name, got, tt.want)
		}
	}
}

func TestPingStats(t *testing.T) {
	start := time.Now()
	const ms = time.Millisecond
	// One request every 10 ms; -1 is a lost one, else the round trip in ms.
	for _, tt := range []struct {
		name string
		rtts []int
		want PingStats
	}{
		{"none", nil, PingStats{}},
		{"all answered", []int{1, 3, 2},
			PingStats{Sent: 3, Received: 3, Min: ms, Avg: 2 * ms, Max: 3 * ms}},
		{"lost in between", []int{2, -1, -1, 2, -1, 2},
			PingStats{Sent: 6, Received: 3, Min: 2 * ms, Avg: 2 * ms, Max: 2 * ms, Outage: 30 * ms}},
		{"lost at the end", []int{2, -1, 2, -1, -1, -1},
			PingStats{Sent: 6, Received: 2, Min: 2 * ms, Avg: 2 * ms, Max: 2 * ms, Outage: 30 * ms}},
		{"lost at the start", []int{-1, -1, 4},
			PingStats{Sent: 3, Received: 1, Min: 4 * ms, Avg: 4 * ms, Max: 4 * ms, Outage: 20 * ms}},
		{"nothing came back", []int{-1, -1}, PingStats{Sent: 2, Outage: 10 * ms}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &Ping{}
			for i, rtt := range tt.rtts {
				e := echo{sent: start.Add(time.Duration(i) * 10 * ms)}
				if rtt >= 0 {
					e.replies, e.rtt = 1, time.Duration(rtt)*ms
				}
				p.echoes = append(p.echoes, e)
			}
			if got := p.statsLocked(len(p.echoes)); got != tt.want {
				t.Errorf("stats = %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestPingCountWraps: the sequence number has 16 bits, a long series has more
// requests.
func TestPingCountWraps(t *testing.T) {
	now := time.Now()
	p := &Ping{dst: netip.MustParseAddr("10.0.0.1"), payload: 56, echoes: make([]echo, 65536+10), waiting: 65536 + 10}
	for i := range p.echoes {
		p.echoes[i].sent = now
	}
	p.count(5, 56, now.Add(time.Second))    // request 65541, not request 5
	p.count(5, 56, now.Add(2*time.Second))  // a duplicate
	p.count(20, 56, now.Add(2*time.Second)) // request 20, long ago
	p.count(9, 55, now.Add(2*time.Second))  // cut short: not ours
	p.count(9, 56, now.Add(3*time.Second))  // the latest, 65545
	p.count(10, 56, now.Add(4*time.Second)) // request 10: 65546 was not sent
	for i, want := range map[int]int{5: 0, 65541: 2, 20: 1, 65545: 1, 10: 1} {
		if got := p.echoes[i].replies; got != want {
			t.Errorf("replies to request %d = %d, want %d", i, got, want)
		}
	}
	if got := p.echoes[65541].rtt; got != time.Second {
		t.Errorf("round trip = %v, want 1s: a duplicate does not count", got)
	}
	if s := p.statsLocked(len(p.echoes)); s.Duplicates != 1 || s.Received != 4 {
		t.Errorf("stats = %+v, want 4 received, 1 duplicate", s)
	}
}

func TestPingCountIgnoresWhatWasNotSent(t *testing.T) {
	p := &Ping{payload: 56}
	p.count(0, 56, time.Now())
	p.echoes = make([]echo, 2)
	p.count(7, 56, time.Now())
	if s := p.statsLocked(2); s.Received != 0 {
		t.Errorf("stats = %+v, want nothing received", s)
	}
}
