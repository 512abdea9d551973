package main

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/routing/control"
)

func TestCheckStateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := checkStateDir(dir); err != nil {
		t.Errorf("a directory that is to be made: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(file, "below"), "/proc/self/state"} {
		err := checkStateDir(bad)
		if err == nil || !strings.HasPrefix(err.Error(), "state_dir "+bad+" cannot be written to: ") || strings.Count(err.Error(), bad) != 1 {
			t.Errorf("checkStateDir(%s) = %v", bad, err)
		}
	}
}

func TestMemory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	m := newMemory(dir, slog.New(slog.DiscardHandler))
	if got := m.load(); got != nil {
		t.Errorf("nothing was kept, but load = %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.run(ctx) }()
	want := []control.Remembered{{Name: 0x020000000001, Addresses: []control.Candidate{
		{Carrier: control.CarrierTCP, Addr: netip.MustParseAddrPort("10.0.0.1:6783")},
		{Carrier: control.CarrierQUIC, Addr: netip.MustParseAddrPort("10.0.0.1:6785")},
	}}}
	for range 100 {
		m.save(nil) // none of these may hold the caller up
	}
	m.save(want)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := m.load()
		if len(got) == 1 && got[0].Name == want[0].Name && slices.Equal(got[0].Addresses, want[0].Addresses) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("load = %v, want %v", got, want)
		}
	}
	cancel()
	<-done
	if info, err := os.Stat(m.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v; want mode 0600", info.Mode(), err)
	}
	m.forget()
	if _, err := os.Stat(m.path); !os.IsNotExist(err) {
		t.Error("the file is still there after forget")
	}
}

func TestMemoryThatIsDamaged(t *testing.T) {
	m := newMemory(t.TempDir(), slog.New(slog.DiscardHandler))
	for name, data := range map[string][]byte{
		"no JSON": []byte("{"), "too large": make([]byte, maxMemory+1), "a bad name": []byte(`[{"name":"x"}]`),
	} {
		if err := os.WriteFile(m.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := m.load(); len(got) != 0 {
			t.Errorf("%s: load = %v, want none", name, got)
		}
	}
}

func TestPortOwner(t *testing.T) {
	tcp, err := control.ListenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if name, pid := portOwner(tcp.Port(), "tcp"); name == "" || pid != os.Getpid() {
		t.Errorf("portOwner of a port of ours = %q, %d, want us, %d", name, pid, os.Getpid())
	}
}
