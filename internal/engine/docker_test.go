package engine

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"meshd/internal/engine/enginetest"
)

// TestFindOdd: an engine that answers oddly is one that does not answer, and nothing of
// it is believed.
func TestFindOdd(t *testing.T) {
	json := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(s))
		}
	}
	tests := map[string]http.HandlerFunc{
		"nothing":         json(``),
		"no JSON":         json(`hello`),
		"null":            json(`null`),
		"a list":          json(`[]`),
		"no object":       json(`"web"`),
		"empty":           json(`{}`),
		"wrong types":     json(`{"Id":1}`),
		"no state":        json(`{"Id":"abc","Name":"/web"}`),
		"another":         json(`{"Id":"abc","Name":"/other","State":{"Running":true,"Pid":1}}`),
		"hostile id":      json(`{"Id":"../../etc","Name":"/web","State":{"Running":true,"Pid":1}}`),
		"huge":            func(w http.ResponseWriter, _ *http.Request) { endless(w) },
		"not found at":    http.NotFound,
		"error":           func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"control":         func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no\x1b[2J\nway", 500) },
		"long error":      func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat("no ", 1e5), 500) },
		"hangs up":        func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"version refused": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "client version is too old", 400) },
	}
	for name, odd := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := enginetest.New(t)
			e.Odd(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/containers/") {
					return false
				}
				odd(w, r)
				return true
			})
			engines := New(Config{Sockets: []string{e.Socket}, Containerd: none})
			c, err := engines.Find(t.Context(), "web")
			if !errors.Is(err, ErrNoEngine) {
				t.Fatalf("Find = %+v, %v, want ErrNoEngine", c, err)
			}
			sentence(t, err)
		})
	}
}

// TestPingOdd: what listens is no engine.
func TestPingOdd(t *testing.T) {
	for name, odd := range map[string]http.HandlerFunc{
		"not found":    http.NotFound,
		"old":          func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.12") },
		"no version":   func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "../../x") },
		"huge version": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", strings.Repeat("9", 1e5)) },
	} {
		t.Run(name, func(t *testing.T) {
			e := enginetest.New(t)
			e.Odd(func(w http.ResponseWriter, r *http.Request) bool { odd(w, r); return true })
			_, err := New(Config{Sockets: []string{e.Socket}, Containerd: none}).Find(t.Context(), "web")
			if !errors.Is(err, ErrNoEngine) {
				t.Errorf("Find: %v, want ErrNoEngine", err)
			}
			sentence(t, err)
		})
	}
}

func TestBounded(t *testing.T) {
	tests := []struct {
		text  string
		lines bool
		ok    bool
	}{
		{strings.Repeat("x", 100), false, true},
		{strings.Repeat("x", 101), false, false},
		{strings.Repeat("x", 100) + "\n" + strings.Repeat("x", 100), true, true},
		{strings.Repeat("x", 100) + "\n" + strings.Repeat("x", 101), true, false},
		{strings.Repeat("x\n", 1000), true, true},
		{strings.Repeat("x\n", 1000), false, false},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 7, 64} {
			b := &bounded{ReadCloser: io.NopCloser(strings.NewReader(tt.text)), max: 100, lines: tt.lines}
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, b, make([]byte, size))
			if (err == nil) != tt.ok {
				t.Errorf("%d bytes, lines %v, reads of %d: %v, want ok: %v", len(tt.text), tt.lines, size, err, tt.ok)
			}
		}
	}
}

// FuzzAnswer: whatever an engine says becomes a container that is safe to handle, or an
// error.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"Id":"abc","Name":"/web","State":{"Status":"running","Running":true,"Pid":17},"HostConfig":{"NetworkMode":"container:x"},"Config":{"Env":["WEAVE_CIDR=none","=","x"],"Labels":{"a":"b"}}}`))
	f.Add([]byte(`{"Id":"abc","State":{"Running":true,"Pid":-1},"HostConfig":{"NetworkMode":"container:../x"},"Config":null}`))
	f.Add([]byte(`{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"name":"web"}}}`))
	d := &docker{engine: "docker"}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r container.InspectResponse
		if json.Unmarshal(data, &r) == nil {
			c, err := d.container(r)
			if err == nil && (!isKey(c.ID) || c.Name != "" && !isKey(c.Name) || c.Running != (c.PID > 0) || c.PID > maxPID) {
				t.Errorf("container %+v", c)
			}
		}
		var m events.Message
		if json.Unmarshal(data, &m) == nil {
			if e, ok := d.event(m); ok && (!isKey(e.ID) || e.Name != "" && !isKey(e.Name) || e.Kind == Resync) {
				t.Errorf("event %+v", e)
			}
		}
	})
}
