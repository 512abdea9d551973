package main

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshd/internal/identity"
	"meshd/routing/control"
)

// stateWithPin is a state directory with one pin, and no daemon.
func stateWithPin(t *testing.T) string {
	t.Helper()
	t.Setenv(socketEnv, filepath.Join(t.TempDir(), "none.sock"))
	dir := t.TempDir()
	pins, err := identity.OpenPins(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pins.Add(testName(2), "weave02", testKey(2), now)
	pins.Add(testName(3), "twin", testKey(3), now)
	pins.Add(testName(4), "twin", testKey(4), now.Add(time.Hour))
	if err := pins.Save(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestIdentityWithoutDaemon(t *testing.T) {
	t.Setenv(socketEnv, filepath.Join(t.TempDir(), "none.sock"))
	dir := filepath.Join(t.TempDir(), "state")
	first, stderr, code := runCLI(t.Context(), "identity", "--state-dir", dir)
	if _, err := identity.ParseKey(strings.TrimSpace(first)); err != nil || code != exitOK {
		t.Fatalf("identity = %q %q %d, want a key", first, stderr, code)
	}
	again, _, _ := runCLI(t.Context(), "identity", "--state-dir", dir, "--json")
	var v struct{ Key string }
	if err := json.Unmarshal([]byte(again), &v); err != nil || v.Key != strings.TrimSpace(first) {
		t.Errorf("identity --json = %q, %v, want the same key", again, err)
	}
	t.Setenv("MESHD_STATE_DIR", dir)
	if third, _, _ := runCLI(t.Context(), "identity"); third != first {
		t.Errorf("identity = %q, want %q", third, first)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := runCLI(t.Context(), "identity", "--state-dir", dir); code != exitFailure || !strings.Contains(stderr, dir+"/identity") {
		t.Errorf("identity of a torn file = %d %q, want its path", code, stderr)
	}
}

func TestTrustWithoutDaemon(t *testing.T) {
	dir := stateWithPin(t)
	out, stderr, code := runCLI(t.Context(), "trust", "list", "--state-dir", dir)
	if code != exitOK || !strings.Contains(out, testKey(2).String()) {
		t.Errorf("trust list = %d %q %q, want the pin", code, out, stderr)
	}
	for _, tt := range []struct {
		arg, want string
		code      int
	}{
		{"twin", "nickname of 2 pinned peers", exitFailure},
		{"nobody", "no key is pinned for nobody", exitFailure},
		{"weave02", "is forgotten", exitOK},
		{"weave02", "no key is pinned", exitFailure},
		{testName(3).String(), "is forgotten", exitOK},
		{"twin", "is forgotten", exitOK},
	} {
		out, stderr, code := runCLI(t.Context(), "trust", "forget", tt.arg, "--state-dir", dir)
		if code != tt.code || !strings.Contains(out+stderr, tt.want) {
			t.Errorf("trust forget %s = %d %q %q, want %d %q", tt.arg, code, out, stderr, tt.code, tt.want)
		}
	}
}

func TestTrustOverTheAPI(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	h := newAPI(d, discard()).local()
	ask := func(body string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/trust/forget", strings.NewReader(body)))
		return w.Code
	}
	for body, want := range map[string]int{
		`{"name":"x"}`: 400, `{}`: 400, `{"name":"02:00:00:00:00:09"}`: 400, `{"nme":"02:00:00:00:00:02"}`: 400,
	} {
		if got := ask(body); got != want {
			t.Errorf("forget %s = %d, want %d", body, got, want)
		}
	}
	if got := ask(`{"name":"02:00:00:00:00:02"}`); got != 200 || len(d.Report().Trust.Pins) != 0 {
		t.Errorf("forget = %d, pins %v, want none", got, d.Report().Trust.Pins)
	}
}

// TestTrustedKeysProblems: with an allow-list the mesh is not open.
func TestTrustedKeysProblems(t *testing.T) {
	r := openReport()
	r.Trust.Keys = []identity.Key{testKey(2)}
	r.Mesh.Connections[0].Authentication = control.ByKey
	r.Mesh.Connections[0].Paths[0].State.Authenticated = true
	s := newStatus(r, now)
	var texts []string
	for _, p := range s.Problems {
		texts = append(texts, p.Code+" "+p.Text)
	}
	all := strings.Join(texts, "\n")
	if strings.Contains(all, "anyone who reaches") || !strings.Contains(all, "unencrypted UNENCRYPTED: frames to 02:00:00:00:00:03(weave03)") || strings.Contains(all, "weave02") {
		t.Errorf("problems:\n%s", all)
	}
	if !s.Trust.Pins[0].Trusted || s.Connections[0].Authentication != "trusted key" {
		t.Errorf("trust %+v, connection %+v, want trusted", s.Trust, s.Connections[0])
	}
}
