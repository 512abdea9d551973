// Package enginetest has a container engine for tests: it speaks what meshd needs of
// Docker's API on a unix socket, and its containers are processes with a network
// namespace of their own.
//
//	e := enginetest.New(t)
//	web := e.Run("web", enginetest.Options{})
//	engines := engine.New(engine.Config{Sockets: []string{e.Socket}, Containerd: []string{}})
//	web.Restart()
package enginetest

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Engine is a container engine. Its methods may be called concurrently.
type Engine struct {
	Socket string // its path

	t testing.TB

	mu         sync.Mutex // guards what follows
	server     *http.Server
	containers []*Container
	past       []event             // what it remembers, oldest first
	listeners  map[chan event]bool // each with room for maxPast; push closes one that is full
	odd        func(http.ResponseWriter, *http.Request) bool
	requests   int
}

// maxPast is how many events an engine remembers, as Docker does.
const maxPast = 256

// New starts an engine without containers. It ends with the test, and its containers
// with it.
func New(t testing.TB) *Engine {
	t.Helper()
	// t.TempDir has the test's name in it, and a socket's path may have 107 bytes only.
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{Socket: filepath.Join(dir, "docker.sock"), t: t, listeners: map[chan event]bool{}}
	t.Cleanup(func() {
		e.Down()
		for _, c := range e.all() {
			c.end()
		}
		os.RemoveAll(dir)
	})
	e.Up()
	return e
}

// Up lets the engine answer again.
func (e *Engine) Up() {
	e.t.Helper()
	listener, err := net.Listen("unix", e.Socket)
	if err != nil {
		e.t.Fatal(err)
	}
	server := &http.Server{Handler: e.handler(), ReadHeaderTimeout: 10 * time.Second}
	e.mu.Lock()
	e.server = server
	e.mu.Unlock()
	go server.Serve(listener)
}

// Down is what a crash of the engine does: it answers no more, the containers run on.
// Restart and Stop work meanwhile, and nobody is told.
func (e *Engine) Down() {
	e.mu.Lock()
	server := e.server
	e.server, e.past = nil, nil
	for l := range e.listeners {
		delete(e.listeners, l)
		close(l)
	}
	e.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// Odd lets odd answer requests first; it reports whether it did. Nil ends that.
func (e *Engine) Odd(odd func(http.ResponseWriter, *http.Request) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.odd = odd
}

// Requests is how many there were.
func (e *Engine) Requests() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests
}

// Listeners is how many follow the events now.
func (e *Engine) Listeners() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.listeners)
}

// Pending is how many events wait to be read by those who follow.
func (e *Engine) Pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for l := range e.listeners {
		n += len(l)
	}
	return n
}

// Options are of a container. The zero value is one with a network namespace of its own.
type Options struct {
	// ID of 64 hexadecimal digits, or the begin of one; empty: random.
	ID string
	// NetworkMode is "host", which takes no privileges, "container:NAME", or anything
	// else for a namespace of its own.
	NetworkMode string
}

// Create makes a container that does not run.
func (e *Engine) Create(name string, o Options) *Container {
	e.t.Helper()
	random := make([]byte, 32)
	rand.Read(random) // never fails
	id := o.ID + hex.EncodeToString(random)[min(64, len(o.ID)):]
	c := &Container{ID: id, Name: name, engine: e, options: o}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, other := range e.containers {
		if other.Name == name || other.ID == id {
			e.t.Fatalf("there is a container %s already", name)
		}
	}
	e.containers = append(e.containers, c)
	e.tellLocked(c, "create")
	return c
}

// Run makes a container and starts it.
func (e *Engine) Run(name string, o Options) *Container {
	e.t.Helper()
	c := e.Create(name, o)
	c.Start()
	return c
}

// Tell sends an event that the engine made up, about a container of this id.
func (e *Engine) Tell(action, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tellLocked(&Container{ID: id, Name: "made-up"}, action)
}

func (e *Engine) all() []*Container {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*Container(nil), e.containers...)
}

// event is one, in Docker's layout; podman has no more.
type event struct {
	Type     string
	Action   string
	Actor    actor
	Scope    string `json:"scope"`
	Time     int64  `json:"time"`
	TimeNano int64  `json:"timeNano"`
}

type actor struct {
	ID         string
	Attributes map[string]string
}

// tellLocked remembers an event and sends it to all who listen. As Docker does, it does
// not wait for those who do not read: they are dropped.
func (e *Engine) tellLocked(c *Container, action string) {
	now := time.Now()
	ev := event{
		Type: "container", Action: action, Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano(),
		Actor: actor{c.ID, map[string]string{"name": c.Name, "image": "box"}},
	}
	if e.server == nil {
		return
	}
	e.past = append(e.past[max(0, len(e.past)-maxPast+1):], ev)
	for l := range e.listeners {
		select {
		case l <- ev:
		default:
			delete(e.listeners, l)
			close(l)
		}
	}
}
