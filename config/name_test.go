package config

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meshd/internal/frame"
)

func TestDefaultPeerName(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	missing := filepath.Join(dir, "missing")
	machine, product := file("machine-id", "6f1c\n"), file("product_uuid", "ABCD\n")
	blank := file("blank", " \n")
	mac := frame.MAC{0x7a, 1, 2, 3, 4, 5}
	for _, tt := range []struct {
		name   string
		from   NameSources
		hashed string // what the name is the hash of
		want   string
		source string
	}{
		{"both", NameSources{MachineID: machine, ProductUUID: product, BridgeMAC: mac}, "6f1c\nABCD\n", "", "machine-id and product_uuid"},
		{"machine-id", NameSources{MachineID: machine, ProductUUID: missing}, "6f1c\n", "", "machine-id"},
		{"product_uuid", NameSources{MachineID: missing, ProductUUID: product}, "ABCD\n", "", "product_uuid"},
		{"blank machine-id", NameSources{MachineID: blank, ProductUUID: missing, BridgeMAC: mac}, "", mac.String(), "bridge MAC"},
		{"neither", NameSources{MachineID: missing, ProductUUID: missing, BridgeMAC: mac}, "", mac.String(), "bridge MAC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if tt.hashed != "" {
				sum := sha256.Sum256([]byte("9oBJ0Jmip-" + tt.hashed))
				sum[0] = sum[0]&^1 | 2
				want = frame.PeerNameOf(sum[:]).String()
			}
			got, source, err := DefaultPeerName(tt.from)
			if err != nil || got.String() != want || source != tt.source {
				t.Errorf("DefaultPeerName() = %v, %q, %v; want %v, %q", got, source, err, want, tt.source)
			}
		})
	}
	if _, _, err := DefaultPeerName(NameSources{MachineID: dir, ProductUUID: product}); err == nil {
		t.Error("DefaultPeerName() with an unreadable machine-id = nil error")
	}
}

func TestKeptPeerName(t *testing.T) {
	state := filepath.Join(t.TempDir(), "new")
	from := NameSources{MachineID: "/does/not/exist", ProductUUID: "/does/not/exist", StateDir: state}
	first, source, err := DefaultPeerName(from)
	if err != nil || !first.Valid() || source != filepath.Join(state, "name") {
		t.Fatalf("DefaultPeerName() = %v, %q, %v", first, source, err)
	}
	if b := byte(first >> 40); b&3 != 2 {
		t.Errorf("name %v is not a locally administered unicast MAC", first)
	}
	if again, _, err := DefaultPeerName(from); err != nil || again != first {
		t.Errorf("DefaultPeerName() again = %v, %v; want %v", again, err, first)
	}
	if entries, err := os.ReadDir(state); err != nil || len(entries) != 1 {
		t.Errorf("state directory = %v, %v; want the name only", entries, err)
	}
	from.StateDir = filepath.Join(t.TempDir(), "other")
	if other, _, err := DefaultPeerName(from); err != nil || other == first {
		t.Errorf("DefaultPeerName() elsewhere = %v, %v; want another than %v", other, err, first)
	}
	if err := os.WriteFile(filepath.Join(state, "name"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	from.StateDir = state
	if _, _, err := DefaultPeerName(from); err == nil || !strings.Contains(err.Error(), state) {
		t.Errorf("DefaultPeerName() with a spoilt file = %v, want an error with the path", err)
	}
	from.StateDir = "/proc/no/such"
	if _, _, err := DefaultPeerName(from); err == nil {
		t.Error("DefaultPeerName() where it cannot keep the name = nil error")
	}
	from.StateDir = ""
	if name, source, err := DefaultPeerName(from); err != nil || !name.Valid() || source != "random" {
		t.Errorf("DefaultPeerName() without a directory = %v, %q, %v", name, source, err)
	}
}
