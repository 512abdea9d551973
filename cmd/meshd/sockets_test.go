package main

import (
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"meshd/config"
	"meshd/internal/udp"
)

func TestUDPOffload(t *testing.T) {
	all := udp.Offload{GSO: true, GRO: true}
	half := udp.Offload{GSO: true, Why: "runs were mangled"}
	tests := []struct {
		setting config.Switch
		probed  udp.Offload
		want    udp.Offload
		fails   bool
	}{
		{config.Auto, all, all, false},
		{config.Auto, half, half, false},
		{config.On, all, all, false},
		{config.On, half, half, true},
		{config.On, udp.Offload{Why: "old kernel"}, udp.Offload{Why: "old kernel"}, true},
		{config.Off, all, udp.Offload{Why: "off by udp.offload"}, false},
	}
	for _, tt := range tests {
		got, err := udpOffload(tt.setting, func() udp.Offload { return tt.probed })
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("udpOffload(%s) with %+v = %+v, %v", tt.setting, tt.probed, got, err)
		}
		if err != nil && !(strings.Contains(err.Error(), tt.probed.Why) && strings.Contains(err.Error(), "udp.offload")) {
			t.Errorf("udpOffload(%s) = %v: does not say why and what to do", tt.setting, err)
		}
	}
	udpOffload(config.Off, func() udp.Offload { t.Error("asked the kernel although it is off"); return all })
}

func TestSocketsReportWhatIsOpen(t *testing.T) {
	off := udp.Offload{Why: "off by udp.offload"}
	s := newSockets(off, slog.New(slog.DiscardHandler))
	conns, err := s.listen("udp.listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conns[0].Close()
	got := s.report("127.0.0.1:0")
	if len(got) != 1 || got[0].Address != conns[0].LocalAddr() || got[0].Offload != off {
		t.Errorf("report = %+v, want the socket at %v", got, conns[0].LocalAddr())
	}
	if got := s.report(":6783"); len(got) != 0 {
		t.Errorf("report of an address that nobody listens on = %+v", got)
	}

	_, err = s.listen("udp.listen", conns[0].LocalAddr().String())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "set udp.listen to another port") {
		t.Errorf("listen on a taken port = %v", err)
	}
}
