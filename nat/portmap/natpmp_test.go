package portmap

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"meshd/nat/portmap/portmaptest"
)

func newPMPHome(t *testing.T, change func(*portmaptest.NATPMPSettings)) (*home, *natPMP) {
	h := newHome(t)
	h.speakNATPMP(t)
	h.pmp.Set(change)
	return h, newNATPMP(h.gateway, DefaultPort)
}

func TestNATPMPAnswers(t *testing.T) {
	tests := []struct {
		name   string
		change func(*portmaptest.NATPMPSettings)
		want   lease
		err    string // in it
	}{
		{
			"as asked", func(*portmaptest.NATPMPSettings) {},
			lease{netip.AddrPortFrom(externalAddr, DefaultPort), time.Hour}, "",
		},
		{
			"for a shorter time", func(s *portmaptest.NATPMPSettings) { s.Grant = time.Minute },
			lease{netip.AddrPortFrom(externalAddr, DefaultPort), time.Minute}, "",
		},
		{
			"a lie is passed on", func(s *portmaptest.NATPMPSettings) { s.External = netip.MustParseAddr("127.0.0.1") },
			lease{netip.MustParseAddrPort("127.0.0.1:6785"), time.Hour}, "",
		},
		{
			"not connected", func(s *portmaptest.NATPMPSettings) { s.External = netip.IPv4Unspecified() },
			lease{}, "no external address",
		},
		{
			"refused", func(s *portmaptest.NATPMPSettings) { s.Result = 2 },
			lease{}, "switched off",
		},
		{
			"no address", func(s *portmaptest.NATPMPSettings) { s.Result = 3 },
			lease{}, "no external address",
		},
		{
			"full", func(s *portmaptest.NATPMPSettings) { s.Result = 4 },
			lease{}, "no mapping left",
		},
		{
			"another result", func(s *portmaptest.NATPMPSettings) { s.Result = 77 },
			lease{}, "result 77",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, p := newPMPHome(t, tt.change)
			got, err := p.add(within(t, lookTime), DefaultPort, time.Hour)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("add = %v, %v, want %v, %q", got, err, tt.want, tt.err)
			}
			if tt.err != "" && p.asked() != 0 {
				t.Errorf("asked for port %d, want none", p.asked())
			}
			if err := p.remove(within(t, exitTime)); err != nil {
				t.Error(err)
			}
			h.empty(t)
		})
	}
}

// The gateway gives another port where ours is another host's, and keeps it.
func TestNATPMPOtherPort(t *testing.T) {
	h, p := newPMPHome(t, func(*portmaptest.NATPMPSettings) {})
	h.table.Put(DefaultPort, portmaptest.Entry{To: netip.MustParseAddrPort("127.9.9.9:6785")})
	for range 2 {
		got, err := p.add(within(t, lookTime), DefaultPort, time.Hour)
		if want := netip.AddrPortFrom(externalAddr, DefaultPort+1); err != nil || got.external != want {
			t.Fatalf("add = %v, %v, want %v", got, err, want)
		}
	}
	if err := p.remove(within(t, exitTime)); err != nil || len(h.table.All()) != 1 {
		t.Errorf("remove: %v, left %v, want the other host's", err, h.table.All())
	}
}

// Silence takes the time there is, and not more; then another turn finds it.
func TestNATPMPSilence(t *testing.T) {
	h, p := newPMPHome(t, func(s *portmaptest.NATPMPSettings) { s.Silent = true })
	start := time.Now()
	_, err := p.add(within(t, 600*time.Millisecond), DefaultPort, time.Hour)
	if took := time.Since(start); !errors.Is(err, errSilent) || took < 500*time.Millisecond || took > 2*time.Second {
		t.Errorf("add: %v after %v, want %v after 600ms", err, took, errSilent)
	}
	time.AfterFunc(400*time.Millisecond, func() {
		h.pmp.Set(func(s *portmaptest.NATPMPSettings) { s.Silent = false })
	})
	if _, err := p.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
		t.Errorf("add after some silence: %v", err)
	}
}

// Whoever is interrupted is back within a turn.
func TestNATPMPInterrupted(t *testing.T) {
	_, p := newPMPHome(t, func(s *portmaptest.NATPMPSettings) { s.Silent = true })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	start := time.Now()
	_, err := p.add(ctx, DefaultPort, time.Hour)
	if took := time.Since(start); !errors.Is(err, errSilent) || took > 300*time.Millisecond+pmpTurn+time.Second {
		t.Errorf("add: %v after %v", err, took)
	}
}

// A mapping whose answer is lost is taken away all the same.
func TestNATPMPLostAnswer(t *testing.T) {
	h, p := newPMPHome(t, func(s *portmaptest.NATPMPSettings) { s.Mute = true })
	if _, err := p.add(within(t, 600*time.Millisecond), DefaultPort, time.Hour); !errors.Is(err, errSilent) {
		t.Errorf("add = %v, want %v", err, errSilent)
	}
	h.mapped(t, DefaultPort)
	if p.asked() != DefaultPort {
		t.Errorf("asked for port %d, want %d", p.asked(), DefaultPort)
	}
	New(h.config()).tidy(t.Context(), h.gateway, p)
	h.empty(t)
}

func TestNATPMPReboot(t *testing.T) {
	h, p := newPMPHome(t, func(*portmaptest.NATPMPSettings) {})
	h.pmp.Age(time.Hour)
	if _, err := p.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := p.check(within(t, lookTime)); err != nil {
		t.Fatal(err)
	}
	h.pmp.Reboot()
	for range 2 { // until it is mapped again
		if _, err := p.check(within(t, lookTime)); !errors.Is(err, errLost) {
			t.Errorf("check after a reboot = %v, want %v", err, errLost)
		}
	}
	if _, err := p.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := p.check(within(t, lookTime)); err != nil {
		t.Error(err)
	}
	h.mapped(t, DefaultPort)
}

// A port that an interface would not let out is an error, not a silence.
func TestNATPMPUnreachable(t *testing.T) {
	h := newHome(t)
	h.gateway.Local = netip.MustParseAddr("203.0.113.77") // not ours
	start := time.Now()
	_, err := newNATPMP(h.gateway, DefaultPort).add(within(t, lookTime), DefaultPort, time.Hour)
	if err == nil || errors.Is(err, errSilent) || time.Since(start) > time.Second {
		t.Errorf("add from an address that is not ours = %v after %v", err, time.Since(start))
	}
}

func TestEpoch(t *testing.T) {
	start := time.Now()
	tests := []struct {
		name    string
		before  uint32
		passed  time.Duration
		seconds uint32
		lost    bool
	}{
		{"as time passes", 1000, time.Minute, 1060, false},
		{"a slow clock", 1000, time.Minute, 1052, false},
		{"two seconds of rounding", 1000, time.Minute, 1050, false},
		{"behind", 1000, time.Minute, 1049, true},
		{"a fast clock", 1000, time.Minute, 2000, false},
		{"at once", 1000, 0, 1000, false},
		{"back a little", 1000, 0, 998, false},
		{"back", 1000, 0, 997, true},
		{"a young gateway", 0, 0, 0, false},
		{"anew", 100, time.Minute, 5, true},
		{"anew before it is old", 5, time.Hour, 20, true},
		{"the largest", 1<<32 - 1, time.Second, 1<<32 - 1, false},
	}
	for _, tt := range tests {
		e := epoch{tt.before, start}
		if got := e.lost(tt.seconds, start.Add(tt.passed)); got != tt.lost {
			t.Errorf("%s: lost = %v, want %v", tt.name, got, tt.lost)
		}
	}
}
