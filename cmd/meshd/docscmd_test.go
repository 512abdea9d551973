package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDocsMan(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1764374400")
	dir := filepath.Join(t.TempDir(), "man8")
	if _, stderr, code := runCLI(t.Context(), "docs", "man", dir); code != exitOK {
		t.Fatalf("docs man = %d %s", code, stderr)
	}
	page, err := os.ReadFile(filepath.Join(dir, "meshd-status-peers.8"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`.TH "MESHD-STATUS-PEERS" "8" "Nov 2025"`, "All peers and their connections"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("meshd-status-peers.8 lacks %q", want)
		}
	}
	if stdout, _, _ := runCLI(t.Context(), "--help"); strings.Contains(stdout, "docs") {
		t.Errorf("the command for packagers is in the help:\n%s", stdout)
	}
}
