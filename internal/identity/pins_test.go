package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
)

var seen = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) Key {
	t.Helper()
	id, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return id.Public()
}

func openPins(t *testing.T, dir string) *Pins {
	t.Helper()
	p, err := OpenPins(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPinsAreKept(t *testing.T) {
	dir, a, b := t.TempDir(), newKey(t), newKey(t)
	p := openPins(t, dir)
	if !p.Add(2, "host2", b, seen) || !p.Add(1, "host1", a, seen) {
		t.Fatal("a new name was not pinned")
	}
	if p.Add(1, "host1", b, seen) {
		t.Error("a pin was replaced")
	}
	if err := p.Save(); err != nil {
		t.Fatal(err)
	}
	p = openPins(t, dir)
	want := []Pin{{1, "host1", a, seen}, {2, "host2", b, seen}}
	if got := p.All(); !slices.Equal(got, want) {
		t.Errorf("pins = %v, want %v", got, want)
	}
	if pin, ok, err := p.Forget(1); !ok || err != nil || pin.Key != a {
		t.Errorf("Forget = %v, %v, %v, want the pin", pin, ok, err)
	}
	if _, ok, err := p.Forget(1); ok || err != nil {
		t.Errorf("Forget again = %v, %v, want nothing to forget", ok, err)
	}
	p = openPins(t, dir)
	if _, ok := p.Find(1); ok {
		t.Error("a forgotten pin came back")
	}
	if !p.Add(1, "host1", b, seen) {
		t.Error("a forgotten name cannot be pinned anew")
	}
	if info, err := os.Stat(filepath.Join(dir, pinsName)); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestPinsRunWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := openPins(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		p.Add(1, "host1", newKey(t), seen)
		synctest.Wait()
		if got := len(openPins(t, dir).All()); got != 1 {
			t.Errorf("%d pins in the file, want 1", got)
		}
		cancel()
		p.Add(2, "host2", newKey(t), seen)
		<-done
		synctest.Wait()
		p.saveLogged()
		if got := len(openPins(t, dir).All()); got != 2 {
			t.Errorf("%d pins in the file, want 2", got)
		}
	})
}

func TestPinsAreBounded(t *testing.T) {
	p, k := openPins(t, t.TempDir()), newKey(t)
	for i := range MaxPins {
		p.Add(frame.PeerName(i+1), "", k, seen)
	}
	if err := p.Room(MaxPins + 1); !errors.Is(err, ErrPinsFull) || p.Add(MaxPins+1, "", k, seen) {
		t.Errorf("one more: %v, want %v", err, ErrPinsFull)
	}
	if err := p.Room(1); err != nil {
		t.Errorf("a pinned name has no room: %v", err)
	}
	if err := p.Save(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(p.path); err != nil || info.Size() > maxPinsFile {
		t.Errorf("the full file has %d bytes, %v: it is not read again", info.Size(), err)
	}
}

func TestDamagedPinsAreSetAside(t *testing.T) {
	good, err := json.Marshal(pinsFile{1, []Pin{{1, "n", newKey(t), seen}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":     nil,
		"torn":      good[:len(good)/2],
		"version":   []byte(`{"version":2}`),
		"no key":    []byte(`{"version":1,"pins":[{"name":"02:00:00:00:00:01"}]}`),
		"no name":   bytes.ReplaceAll(good, []byte("00:00:00:00:00:01"), []byte("00:00:00:00:00:00")),
		"twice":     bytes.Replace(good, []byte("["), []byte("["+strings.Trim(string(good[bytes.IndexByte(good, '['):]), "[]}")+"},"), 1),
		"weak key":  []byte(fmt.Sprintf(`{"version":1,"pins":[{"name":"02:00:00:00:00:01","key":"%s"}]}`, Key{1})),
		"too large": make([]byte, maxPinsFile+1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, pinsName), data, 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			p, err := OpenPins(dir, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil || len(p.All()) != 0 || !strings.Contains(log.String(), "set aside") {
				t.Fatalf("OpenPins = %v, log %q, want no pins and a warning", err, log.String())
			}
			files, err := filepath.Glob(filepath.Join(dir, pinsName+".damaged-*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("set aside: %v, %v, want one file", files, err)
			}
			if kept, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(kept, data) {
				t.Error("what was set aside is not what was there")
			}
			p.Add(1, "", newKey(t), seen)
			if err := p.Save(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPinsConcurrently(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	p := openPins(t, dir)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				name := frame.PeerName(1 + i*20 + j)
				p.Add(name, "", k, seen)
				if j%2 == 0 {
					if _, _, err := p.Forget(name); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := p.Save(); err != nil {
		t.Fatal(err)
	}
	if got, want := openPins(t, dir).All(), p.All(); len(got) != 80 || !slices.Equal(got, want) {
		t.Errorf("%d pins in the file, %d in memory, want 80", len(got), len(want))
	}
}

func FuzzParsePins(f *testing.F) {
	f.Add([]byte(`{"version":1,"pins":[]}`))
	good, err := json.Marshal(pinsFile{1, []Pin{{1, "n", newKey(f), seen}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		pins, err := parsePins(data)
		for name, pin := range pins {
			if err == nil && (name != pin.Name || pin.Key.Weak()) {
				t.Fatalf("pin %v of %v", pin, name)
			}
		}
	})
}
