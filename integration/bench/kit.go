package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// password is the mesh's where a variant has one.
const password = "correct horse battery staple, forty times over"

// findTime bounds how long finding or building a program may take.
const findTime = 3 * time.Minute

// kit is the programs under test.
type kit struct {
	meshd string // path
	stock string // script that starts and stops a stock router; "" for none
	// wireguardPath is set by the variant's find.
	wireguardPath string
}

// firstLine runs a program and returns the first line of what it prints that
// holds text.
func firstLine(ctx context.Context, text, name string, args ...string) (string, error) {
	path, err := findProgram(name)
	if err != nil {
		return "", err
	}
	// Some tell their version with exit code 1.
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("%s %s: no version: %w", name, strings.Join(args, " "), err)
}

// goInstall builds the newest version of a Go program in a cache directory, or
// takes the one that is there if that does not work.
func goInstall(ctx context.Context, module, name string) (path, version string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", err
	}
	dir := filepath.Join(cache, "meshd-bench")
	path = filepath.Join(dir, name)
	tool := os.Getenv("GO")
	if tool == "" {
		tool = "go"
	}
	cmd := exec.CommandContext(ctx, tool, "install", module+"@latest")
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=")
	cmd.Dir = os.TempDir() // outside of our module
	out, buildErr := cmd.CombinedOutput()
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", "", fmt.Errorf("go install %s@latest: %w: %.300s", module, buildErr, strings.TrimSpace(string(out)))
	}
	return path, info.Main.Version, nil
}
