package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "meshd"

// importRule says what a folder and those below it may import of this module;
// the entry with the longest matching folder holds. "x/..." is x and all below
// it. It is the drawing of the architecture: imports point one way.
var importRule = map[string][]string{
	"cmd":             {"..."},
	"integration":     {"..."},
	"routing/control": {"routing", "transport", "internal/..."},
	"routing/measure": {"routing", "transport", "internal/..."},
	"routing/signal":  {"internal/..."},
	"routing":         {"transport", "internal/..."},
	// No transport imports another, nor routing.
	"transport/sleeve":         {"transport", "internal/..."},
	"transport/quic":           {"transport", "internal/..."},
	"transport/tcp":            {"transport", "internal/..."},
	"transport/punch":          {"transport", "nat", "internal/..."},
	"transport/transporttest":  {"transport", "internal/..."},
	"transport":                {"internal/..."},
	"tap":                      {"internal/..."},
	"tap/taptest":              {"tap", "internal/..."},
	"tap/attach":               {"tap/claim", "internal/..."},
	"tap/claim":                {"internal/..."},
	"tap/expose":               {"tap/claim", "internal/..."},
	"tap/publish":              {"internal/..."},
	"tap/containers":           {"tap/attach", "tap/claim", "tap/expose", "tap/publish", "internal/..."},
	"nat":                      {"internal/..."},
	"nat/nattest":              {"nat", "internal/..."},
	"nat/portmap":              {"internal/..."},
	"config":                   {"internal/..."},
	"internal":                 {"internal/..."},
	"internal/frame":           {},
	"internal/pathstate":       {},
	"routing/control/meshtest": {"routing", "routing/control", "transport", "internal/..."},
}

// testImports are what test files may import beyond that: the real small
// implementations that stand in for the world.
var testImports = []string{"tap/taptest", "transport/transporttest", "nat/nattest", "nat/portmap/portmaptest", "routing/control/meshtest"}

// dataPlane is what must not know of HTTP, flags, configuration or processes.
var dataPlane = []string{"routing", "transport", "internal/frame", "internal/encap"}

var notForDataPlane = []string{"net/http", "flag", "os/exec", "github.com/spf13/"}

func TestImportRule(t *testing.T) {
	files := goFiles(t)
	folders := map[string]bool{}
	for _, file := range files {
		folder := filepath.ToSlash(filepath.Dir(file))
		folders[folder] = true
		for _, path := range importsOf(t, filepath.Join("..", "..", file)) {
			if fault := importFault(folder, path, strings.HasSuffix(file, "_test.go")); fault != "" {
				t.Errorf("%s: %s", file, fault)
			}
		}
	}
	for _, must := range []string{"cmd/meshd", "config", "routing", "routing/control", "tap", "transport", "transport/sleeve", "internal/frame"} {
		if !folders[must] {
			t.Errorf("no Go files found in %s: is the test still looking at the tree?", must)
		}
	}
}

// importFault says why folder may not import path, "" if it may.
func importFault(folder, path string, test bool) string {
	if slices.Contains(dataPlane, folder) && !test {
		for _, p := range notForDataPlane {
			if path == p || strings.HasSuffix(p, "/") && strings.HasPrefix(path, p) {
				return "the data plane must not import " + path
			}
		}
	}
	target, ours := strings.CutPrefix(path, module+"/")
	if !ours || target == folder {
		return ""
	}
	if test && slices.Contains(testImports, target) {
		return ""
	}
	rule, ok := ruleOf(folder)
	if !ok {
		return "the folder is not in importRule: where in the architecture is it?"
	}
	if !slices.ContainsFunc(rule, func(pattern string) bool { return matches(pattern, target) }) {
		return "must not import " + path + ", only " + strings.Join(rule, ", ")
	}
	return ""
}

// ruleOf finds the rule with the longest folder.
func ruleOf(folder string) ([]string, bool) {
	for at := folder; at != "." && at != ""; at = filepath.ToSlash(filepath.Dir(at)) {
		if rule, ok := importRule[at]; ok {
			return rule, true
		}
	}
	return nil, false
}

func matches(pattern, target string) bool {
	if pattern == "..." {
		return true
	}
	if base, all := strings.CutSuffix(pattern, "/..."); all {
		return target == base || strings.HasPrefix(target, base+"/")
	}
	return target == pattern
}

func TestImportFault(t *testing.T) {
	tests := []struct {
		folder, path string
		test, fault  bool
	}{
		{"routing", "meshd/transport", false, false},
		{"routing", "meshd/internal/frame", false, false},
		{"routing", "meshd/routing/control", false, true},
		{"routing", "net/http", false, true},
		{"routing", "github.com/spf13/pflag", false, true},
		{"routing", "net/http", true, false},
		{"routing/control", "meshd/routing", false, false},
		{"routing/control", "meshd/transport/sleeve", false, true},
		{"transport", "meshd/routing", false, true},
		{"transport/sleeve", "meshd/transport", false, false},
		{"transport/sleeve", "meshd/transport/quic", false, true},
		{"transport/sleeve", "meshd/transport/transporttest", true, false},
		{"transport/sleeve", "meshd/transport/transporttest", false, true},
		{"transport/sleeve", "meshd/config", false, true},
		{"tap", "meshd/transport", false, true},
		{"internal/frame", "meshd/internal/encap", false, true},
		{"internal/encap", "meshd/internal/frame", false, false},
		{"internal/encap", "meshd/transport", false, true},
		{"cmd/meshd", "meshd/transport/sleeve", false, false},
		{"elsewhere", "meshd/transport", false, true},
		{"elsewhere", "fmt", false, false},
	}
	for _, tt := range tests {
		if got := importFault(tt.folder, tt.path, tt.test); (got != "") != tt.fault {
			t.Errorf("importFault(%s, %s, %v) = %q, want a fault: %v", tt.folder, tt.path, tt.test, got, tt.fault)
		}
	}
}

// goFiles lists all Go files of the module, of all build tags.
func goFiles(t *testing.T) []string {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			rel, err := filepath.Rel(root, path)
			files = append(files, rel)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func importsOf(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths[path] = true
	}
	return slices.Sorted(maps.Keys(paths))
}
