package engine

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meshd/internal/engine/enginetest"
)

// watcher runs Watch and hands out what it reports.
type watcher struct {
	t      *testing.T
	events chan Event // Watch sends, next receives; it has room for all
}

// watch runs Watch until the test ends, and sees that it does end.
func watch(t *testing.T, e *Engines) *watcher {
	t.Helper()
	w := &watcher{t, make(chan Event, 4096)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Watch(ctx, func(ev Event) { w.events <- ev }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Watch = %v, want nil", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Watch has not ended 5 s after its context")
		}
	})
	return w
}

// want waits for an event, past others.
func (w *watcher) want(kind EventKind, engine, id string) Event {
	w.t.Helper()
	timer := time.NewTimer(15 * time.Second)
	defer timer.Stop()
	var seen []Event
	for {
		select {
		case e := <-w.events:
			if e.Kind == kind && e.Engine == engine && e.ID == id {
				return e
			}
			seen = append(seen, e)
		case <-timer.C:
			w.t.Fatalf("no event %v of %s:%s, but %v", kind, engine, shortID(id), seen)
		}
	}
}

func TestWatch(t *testing.T) {
	docker, podman, engines := two(t)
	w := watch(t, engines)
	// Both begin with one; which is first is chance.
	for _, e := range []Event{<-w.events, <-w.events} {
		if e.Kind != Resync {
			t.Errorf("first event %+v, want Resync", e)
		}
	}
	web := docker.Run("web", enginetest.Options{NetworkMode: "host"})
	if e := w.want(Started, "docker", web.ID); e.Name != "web" {
		t.Errorf("event %+v, want the name", e)
	}
	web.Restart()
	w.want(Ended, "docker", web.ID)
	w.want(Started, "docker", web.ID)
	web.Remove()
	w.want(Ended, "docker", web.ID)
	w.want(Removed, "docker", web.ID)
	cache := podman.Run("cache", enginetest.Options{NetworkMode: "host"})
	w.want(Started, "podman", cache.ID)
	podman.Tell("died", cache.ID) // podman's words
	w.want(Ended, "podman", cache.ID)
	podman.Tell("remove", cache.ID)
	w.want(Removed, "podman", cache.ID)
}

// TestWatchPasses: what is no event of a container's life is not reported.
func TestWatchPasses(t *testing.T) {
	e := enginetest.New(t)
	w := watch(t, New(Config{Sockets: []string{e.Socket}, Containerd: none}))
	w.want(Resync, "docker", "")
	for _, action := range []string{"exec_start: sh", "exec_die", "health_status: healthy", "pause", "oom", "rename", ""} {
		e.Tell(action, "abc")
	}
	e.Tell("start", "../../etc")
	e.Tell("start", "")
	e.Tell("start", "good")
	if ev := <-w.events; ev.Kind != Started || ev.ID != "good" {
		t.Errorf("event %+v, want only the good one", ev)
	}
}

// TestWatchAgain: an engine restarts.
func TestWatchAgain(t *testing.T) {
	e := enginetest.New(t)
	engines := New(Config{Sockets: []string{e.Socket}, Containerd: none})
	w := watch(t, engines)
	w.want(Resync, "docker", "")
	for range 2 {
		e.Down()
		e.Up()
		w.want(Resync, "docker", "")
		c := e.Run("web", enginetest.Options{NetworkMode: "host"})
		w.want(Started, "docker", c.ID)
		c.Remove()
	}
}

// TestWatchLater: an engine is started after us.
func TestWatchLater(t *testing.T) {
	e := enginetest.New(t)
	e.Down()
	w := watch(t, New(Config{Sockets: []string{e.Socket}, Containerd: none}))
	select {
	case ev := <-w.events:
		t.Errorf("event %+v of no engine", ev)
	case <-time.After(300 * time.Millisecond):
	}
	e.Up()
	w.want(Resync, "docker", "")
}

// TestWatchMissesNothing: what happens between the Resync and what is listed after it
// is in one or the other.
func TestWatchMissesNothing(t *testing.T) {
	e := enginetest.New(t)
	// As Docker does: the head of the answer is out before events are listened to.
	var once sync.Once
	e.Odd(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/events") {
			once.Do(func() { e.Tell("start", "between") })
		}
		return false
	})
	w := watch(t, New(Config{Sockets: []string{e.Socket}, Containerd: none}))
	w.want(Resync, "docker", "")
	w.want(Started, "docker", "between")
}

// TestWatchSlowReport: events are read while report hangs, and the engine is not held
// up.
func TestWatchSlowReport(t *testing.T) {
	e := enginetest.New(t)
	engines := New(Config{Sockets: []string{e.Socket}, Containerd: none})
	ctx, cancel := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	var got []Event
	resynced := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- engines.Watch(ctx, func(ev Event) {
			if len(got) == 0 {
				close(entered)
				<-release
			}
			got = append(got, ev)
			if ev == (Event{Kind: Resync}) {
				close(resynced)
			}
		})
	}()
	<-entered
	for range 20 {
		for range 100 { // fewer than the engine holds for one who does not read
			e.Tell("start", "x")
		}
		waitFor(t, "the events are read", func() bool { return e.Listeners() == 1 && e.Pending() == 0 })
	}
	close(release)
	<-resynced
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(got) > 2*maxPending {
		t.Errorf("%d events reported, want at most %d", len(got), 2*maxPending)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestQueue(t *testing.T) {
	q := newQueue()
	q.push(Event{Kind: Resync, Engine: "a"})
	q.push(Event{Kind: Started, ID: "1"})
	q.push(Event{Kind: Resync, Engine: "a"})
	q.push(Event{Kind: Resync, Engine: "b"})
	want := []Event{{Kind: Resync, Engine: "a"}, {Kind: Started, ID: "1"}, {Kind: Resync, Engine: "b"}}
	if !slices.Equal(q.pending, want) {
		t.Errorf("pending %v, want %v", q.pending, want)
	}
	for range 3 * maxPending {
		q.push(Event{Kind: Ended, ID: "2"})
		if len(q.pending) > maxPending {
			t.Fatalf("%d pending", len(q.pending))
		}
	}
	if e, ok := q.pop(); !ok || e != (Event{Kind: Resync}) {
		t.Errorf("pop = %v, %v after it was full, want Resync of all", e, ok)
	}
}

// TestWatchOdd: an engine that answers oddly does not harm, and is asked again.
func TestWatchOdd(t *testing.T) {
	type answer = func(w http.ResponseWriter, r *http.Request)
	line := func(s string) answer {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(s)) }
	}
	tests := map[string]answer{
		"no JSON":      line("hello\n"),
		"an array":     line("[1,2]\n"),
		"null":         line("null\n"),
		"wrong types":  line(`{"Type":1}` + "\n"),
		"error":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"no content":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"moved":        func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"endless line": func(w http.ResponseWriter, _ *http.Request) { endless(w) },
	}
	for name, odd := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := enginetest.New(t)
			e.Odd(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/events") {
					return false
				}
				odd(w, r)
				return true
			})
			w := watch(t, New(Config{Sockets: []string{e.Socket}, Containerd: none}))
			waitFor(t, "it is asked", func() bool { return e.Requests() >= 4 })
			e.Odd(nil)
			waitFor(t, "it is listened to", func() bool { return e.Listeners() > 0 })
			e.Tell("start", "good")
			w.want(Started, "docker", "good")
		})
	}
}

// endless writes until nobody reads any more, 64 MiB at most.
func endless(w http.ResponseWriter) {
	chunk := []byte(`{"a":"` + strings.Repeat("x", 1<<16))
	for range 1 << 10 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func TestMain(m *testing.M) {
	// DOCKER_HOST of whoever runs the tests is none of theirs.
	os.Unsetenv("DOCKER_HOST")
	os.Exit(m.Run())
}
