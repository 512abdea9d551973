package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfilesAreOffAndNeverOnTCP(t *testing.T) {
	a := newAPI(newFakeDaemon(healthyReport()), discard())
	get := func(h http.Handler, path string) int { return ask(h, "GET", path, "").Code }
	if code := get(a.local(), "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("profiles that nobody asked for = %d", code)
	}
	a.pprof = true
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
		if code := get(a.local(), path); code != http.StatusOK {
			t.Errorf("GET %s = %d", path, code)
		}
		if code := get(a.public(), path); code != http.StatusNotFound {
			t.Errorf("GET %s on TCP = %d", path, code)
		}
	}
}

func TestProfileOverTheSocket(t *testing.T) {
	a := newAPI(newFakeDaemon(healthyReport()), discard())
	a.pprof = true
	s, err := listenSocket(filepath.Join(shortDir(t), "meshd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	serveUntilEnd(t, s, a.local())
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", s.path) },
	}}
	resp, err := client.Get("http://localhost/debug/pprof/profile?seconds=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	// A profile is a gzip stream.
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(data), "\x1f\x8b") {
		t.Errorf("GET profile = %s, %v, %d bytes", resp.Status, err, len(data))
	}
}
