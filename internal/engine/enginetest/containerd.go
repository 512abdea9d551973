package enginetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Containerd is a containerd as far as anybody here looks at it: its runtime state
// directory, and of its API whether there is a container.
type Containerd struct {
	Root string // the runtime state directory; the socket is beside it

	t      testing.TB
	server *http.Server // nil: it is down

	mu    sync.Mutex // guards what follows
	known map[string]bool
	odd   http.HandlerFunc
	asked int
}

// NewContainerd starts one, which ends with the test.
func NewContainerd(t testing.TB) *Containerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctr") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	c := &Containerd{t: t, Root: filepath.Join(dir, "task"), known: map[string]bool{}}
	if err := os.Mkdir(c.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	c.Up()
	t.Cleanup(func() {
		c.Down()
		os.RemoveAll(dir)
	})
	return c
}

// Up has it answer.
func (c *Containerd) Up() {
	c.t.Helper()
	l, err := net.Listen("unix", filepath.Join(filepath.Dir(c.Root), "containerd.sock"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.server = &http.Server{Handler: c, Protocols: new(http.Protocols)}
	c.server.Protocols.SetUnencryptedHTTP2(true)
	go c.server.Serve(l)
}

// Down has it not listen any more.
func (c *Containerd) Down() {
	if c.server != nil {
		c.server.Close()
		c.server = nil
	}
}

// Odd has h answer all there is; nil: as it should be.
func (c *Containerd) Odd(h http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.odd = h
}

// Asked is how often it was asked.
func (c *Containerd) Asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// Write writes a file of a container's bundle.
func (c *Containerd) Write(namespace, id, file, text string) {
	c.t.Helper()
	dir := filepath.Join(c.Root, namespace, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// Run adds a container with a process, or starts it again with another.
func (c *Containerd) Run(namespace, id string, pid int, annotations map[string]string) {
	c.t.Helper()
	config, err := json.Marshal(map[string]any{
		"annotations": annotations,
		"linux":       map[string]any{"namespaces": []any{map[string]string{"type": "pid"}, map[string]string{"type": "network"}}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.known[namespace+"/"+id] = true
	c.mu.Unlock()
	c.Write(namespace, id, "config.json", string(config))
	c.Write(namespace, id, "init.pid", fmt.Sprint(pid))
}

// Stop removes what there is of a container while it runs, its task.
func (c *Containerd) Stop(namespace, id string) {
	c.t.Helper()
	if err := os.RemoveAll(filepath.Join(c.Root, namespace, id)); err != nil {
		c.t.Fatal(err)
	}
}

// Remove removes a container.
func (c *Containerd) Remove(namespace, id string) {
	c.t.Helper()
	c.mu.Lock()
	delete(c.known, namespace+"/"+id)
	c.mu.Unlock()
	c.Stop(namespace, id)
}

// ServeHTTP answers as containerd's gRPC server does.
func (c *Containerd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	odd := c.odd
	c.asked++
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/grpc")
	const head = 7 // not compressed, length, field 1 of protobuf, length
	switch {
	case odd != nil:
		odd(w, r)
		return
	case err != nil, r.ProtoMajor != 2, r.URL.Path != "/containerd.services.containers.v1.Containers/Get",
		r.Header.Get("Content-Type") != "application/grpc", r.Header.Get("TE") != "trailers",
		len(body) < head, int(body[4]) != len(body)-5, body[5] != 0x0a, int(body[6]) != len(body)-head:
		w.Header().Set("Grpc-Status", "12") // not implemented
		return
	}
	c.mu.Lock()
	known := c.known[r.Header.Get("containerd-namespace")+"/"+string(body[head:])]
	c.mu.Unlock()
	if !known {
		w.Header().Set("Grpc-Status", "5")
		return
	}
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write([]byte{0, 0, 0, 0, 2, 0x0a, 0}) // a container without an id
	w.Header().Set("Grpc-Status", "0")
}
