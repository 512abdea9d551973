package containers

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kept is a store of attachments with two records.
func kept(t *testing.T) (s store[Attachment], log *bytes.Buffer) {
	t.Helper()
	log = new(bytes.Buffer)
	dir := filepath.Join(t.TempDir(), "attachments")
	s = store[Attachment]{dir, "container", Attachment.key, Attachment.check, slog.New(slog.NewTextHandler(log, nil))}
	for _, a := range []Attachment{
		{Engine: "docker", ID: "a", Name: "../../etc/passwd", Addresses: prefixes("10.32.0.1/24 fd00::1/64")},
		{NetNS: "/run/netns/\x00\"' -rf", Addresses: prefixes("10.32.0.2/24"), NoMulticastRoute: true},
	} {
		if err := s.save(a); err != nil {
			t.Fatal(err)
		}
	}
	return s, log
}

// wantKept checks of which containers there are records.
func wantKept(t *testing.T, s store[Attachment], want ...string) {
	t.Helper()
	records, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		got = append(got, r.key())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("records of %q, want %q", got, want)
	}
}

const (
	keyA = "docker:a"
	keyB = "netns:/run/netns/\x00\"' -rf"
)

func TestStoreKeeps(t *testing.T) {
	s, log := kept(t)
	wantKept(t, s, keyA, keyB)
	for _, f := range names(t, s.dir) {
		if !strings.HasPrefix(f, "container-") || !strings.HasSuffix(f, ".json") {
			t.Errorf("file %q", f)
		}
	}
	for range 2 {
		wantError(t, s.forget(keyA), "")
	}
	wantKept(t, s, keyB)
	if log.Len() > 0 {
		t.Errorf("log: %s", log)
	}
}

func TestStoreWithoutDirectory(t *testing.T) {
	s := store[Attachment]{filepath.Join(t.TempDir(), "none"), "container", Attachment.key, Attachment.check, slog.Default()}
	wantKept(t, s)
	wantError(t, s.forget(keyA), "")
}

func TestStoreSetsAside(t *testing.T) {
	s, _ := kept(t)
	good, err := os.ReadFile(s.path(keyA))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"torn", good[:len(good)/2]},
		{"empty", nil},
		{"zeros", make([]byte, 512)},
		{"not an object", []byte("[]")},
		{"another container's", bytes.Replace(good, []byte(`"a"`), []byte(`"b"`), 1)},
		{"no addresses", []byte(`{"engine":"docker","id":"a","addresses":null}`)},
		{"empty address", []byte(`{"engine":"docker","id":"a","addresses":[""]}`)},
		{"impossible address", []byte(`{"engine":"docker","id":"a","addresses":["127.0.0.1/8"]}`)},
		{"too large", append(good, make([]byte, maxRecord)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, log := kept(t)
			if err := os.WriteFile(s.path(keyA), tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			wantKept(t, s, keyB)
			if !strings.Contains(log.String(), "set aside") {
				t.Errorf("log: %s", log)
			}
			if _, err := os.Stat(s.path(keyA) + ".damaged"); err != nil {
				t.Error(err)
			}
			log.Reset()
			wantKept(t, s, keyB)
			if log.Len() > 0 {
				t.Errorf("second start: %s", log)
			}
		})
	}
	t.Run("link", func(t *testing.T) {
		s, _ := kept(t)
		other := filepath.Join(t.TempDir(), "f")
		if err := os.Rename(s.path(keyA), other); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(other, s.path(keyA)); err != nil {
			t.Fatal(err)
		}
		wantKept(t, s, keyB)
	})
}

func TestStoreWhereNothingCanBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := store[Attachment]{filepath.Join(file, "attachments"), "container", Attachment.key, Attachment.check, slog.Default()}
	wantError(t, s.save(Attachment{Engine: "docker", ID: "a", Addresses: prefixes("10.32.0.1/24")}), "not a directory: nothing was changed; make room")
	wantError(t, s.forget(keyA), "")
}

// names are the files of a directory.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, f := range files {
		out = append(out, f.Name())
	}
	return out
}
