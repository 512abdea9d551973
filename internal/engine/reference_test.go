package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	tests := []struct {
		what string
		want reference
	}{
		{"web", reference{key: "web"}},
		{"/web", reference{key: "web"}},
		{"web_1.a-b", reference{key: "web_1.a-b"}},
		{id, reference{key: id}},
		{id[:12], reference{key: id[:12]}},
		{"docker:web", reference{engine: "docker", key: "web"}},
		{"docker:/web", reference{engine: "docker", key: "web"}},
		{"podman:1234", reference{engine: "podman", key: "1234"}},
		{"docker@/run/other.sock:web", reference{engine: "docker@/run/other.sock", key: "web"}},
		{"docker@/run/a:b.sock:web", reference{engine: "docker@/run/a:b.sock", key: "web"}},
		{"containerd/k8s.io:web", reference{engine: "containerd/k8s.io", key: "web"}},
		{"1234", reference{key: "1234", pid: 1234, bare: true}},
		{"/1234", reference{key: "1234"}},
		{"01234", reference{key: "01234"}},
		{"12345678", reference{key: "12345678"}},
		{"4194305", reference{key: "4194305"}},
		{"pid:1234", reference{pid: 1234}},
		{"pid:1234@567.89abcdef", reference{pid: 1234, birth: "567.89abcdef"}},
		{"netns:foo", reference{path: "/run/netns/foo", name: "foo"}},
		{"netns:a b:c", reference{path: "/run/netns/a b:c", name: "a b:c"}},
		{"netns:/foo", reference{path: "/foo"}},
		{"/run/netns/foo", reference{path: "/run/netns/foo"}},
		{"/run/netns/../netns//foo", reference{path: "/run/netns/foo"}},
		{"/proc/1234/ns/net", reference{pid: 1234}},
		{"/proc/self/ns/net", reference{path: "/proc/self/ns/net"}},
		{"/run/a:b", reference{path: "/run/a:b"}},
	}
	for _, tt := range tests {
		got, err := parse(tt.what)
		if err != nil || got != tt.want {
			t.Errorf("parse(%q) = %+v, %v, want %+v", tt.what, got, err, tt.want)
		}
	}
}

// hostile are what nothing is called, and what must not get anywhere.
var hostile = []string{
	"", "/", " ", "web ", " web", "a b", "-x", "--help", "_web", ".web", "..", "../web", "a/b", "a/../b", "/..", "web/json?x=",
	`we"b`, "we'b", "we`b", "$(id)", "web;id", "web\n", "we\x00b", "we\x1b[31mb", "wéb", "we\u202eb", "\xff\xfe", "web%2f..%2f", "a?b", "a#b", "a&b",
	strings.Repeat("a", 300), strings.Repeat("9", 300), "docker:", ":web", "docker:web:x/y", "do cker:web", "../docker:web", "docker@run:web",
	"a/b/c:web", "docker@/run/\x1b:web", "pid:", "pid:0", "pid:-1", "pid:x", "pid:4194305", "pid:99999999999999999999", "pid:1@", "pid:1@a/b",
	"netns:", "netns:.", "netns:..", "netns:a/b", "netns:../foo", "netns:a\nb", "netns:" + strings.Repeat("a", 300), "/run/a\nb", "/" + strings.Repeat("a/", 3000),
}

func TestParseHostile(t *testing.T) {
	for _, what := range hostile {
		// "pid:1@" is a process without a birth, harmless.
		if what == "pid:1@" {
			continue
		}
		ref, err := parse(what)
		if !errors.Is(err, ErrBadName) {
			t.Errorf("parse(%.40q) = %+v, %v, want ErrBadName", what, ref, err)
			continue
		}
		sentence(t, err)
	}
}

// sentence checks that an error is fit for people and terminals.
func sentence(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	if !printable(text) || strings.HasSuffix(text, ".") {
		t.Errorf("error %q is not one printable sentence", text)
	}
	if len(text) > 600 {
		t.Errorf("error of %d bytes: %.200s...", len(text), text)
	}
}

func FuzzParse(f *testing.F) {
	for _, what := range append(hostile, "web", "docker:web", "pid:1", "1", "netns:foo", "/run/netns/foo", "docker@/run/x:web") {
		f.Add(what)
	}
	f.Fuzz(func(t *testing.T, what string) {
		ref, err := parse(what)
		if err != nil {
			if !errors.Is(err, ErrBadName) || ref != (reference{}) {
				t.Errorf("parse(%q) = %+v, %v, want the zero reference and ErrBadName", what, ref, err)
			}
			sentence(t, err)
			return
		}
		if ref.key != "" && !isKey(ref.key) {
			t.Errorf("key %q may not go into a URL", ref.key)
		}
		if (ref.key != "") == (ref.path != "" || ref.pid != 0 && !ref.bare) {
			t.Errorf("parse(%q) = %+v means several things", what, ref)
		}
		if ref.pid < 0 || ref.pid > maxPID {
			t.Errorf("parse(%q): pid %d", what, ref.pid)
		}
		if ref.path != "" && (!strings.HasPrefix(ref.path, "/") || strings.Contains(ref.path+"/", "/../") || !printable(ref.path)) {
			t.Errorf("parse(%q): path %q", what, ref.path)
		}
		if ref.name != "" && ref.path != "/run/netns/"+ref.name {
			t.Errorf("parse(%q): name %q, path %q", what, ref.name, ref.path)
		}
	})
}

func TestFits(t *testing.T) {
	tests := []struct {
		prefix, engine string
		want           bool
	}{
		{"", "docker", true},
		{"docker", "docker", true},
		{"docker", "podman", false},
		{"docker", "docker@/run/x.sock", true},
		{"docker@/run/x.sock", "docker", false},
		{"docker@/run/x.sock", "docker@/run/x.sock", true},
		{"containerd", "containerd/k8s.io", true},
		{"containerd/default", "containerd/k8s.io", false},
		{"containerd/k8s.io", "containerd/k8s.io@/run/k3s", true},
		{"containerd/k8s.io@/run/k3s", "containerd/k8s.io", false},
	}
	for _, tt := range tests {
		if got := Fits(tt.prefix, tt.engine); got != tt.want {
			t.Errorf("Fits(%q, %q) = %v, want %v", tt.prefix, tt.engine, got, tt.want)
		}
	}
}

func TestNameSockets(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		list []string
		want []socket
	}{
		{[]string{"/x/docker.sock", "/x/podman.sock"}, []socket{{"docker", "/x/docker.sock"}, {"podman", "/x/podman.sock"}}},
		{[]string{"unix:///x/a.sock", "/x/b.sock"}, []socket{{"docker", "/x/a.sock"}, {"docker@/x/b.sock", "/x/b.sock"}}},
		{[]string{"one=/x/a.sock", "two=/x/b.sock", "/x/a.sock"}, []socket{{"one", "/x/a.sock"}, {"two", "/x/b.sock"}}},
		{[]string{dir + "/a.sock", link + "/a.sock"}, []socket{{"docker", dir + "/a.sock"}}},
		{[]string{"tcp://10.0.0.1:2375", "/x/a.sock"}, []socket{{"docker", "/x/a.sock"}}},
		{[]string{"/x/a=b.sock"}, []socket{{"docker", "/x/a=b.sock"}}},
	}
	for _, tt := range tests {
		got := nameSockets(tt.list)
		if len(got) != len(tt.want) {
			t.Errorf("nameSockets(%q) = %v, want %v", tt.list, got, tt.want)
			continue
		}
		for i := range got {
			if got[i] != tt.want[i] {
				t.Errorf("nameSockets(%q)[%d] = %v, want %v", tt.list, i, got[i], tt.want[i])
			}
		}
	}
}

func TestParseSocket(t *testing.T) {
	tests := []struct{ text, name, path, says string }{
		{"/run/docker.sock", "", "/run/docker.sock", ""},
		{"unix:///run/docker.sock", "", "/run/docker.sock", ""},
		{"prod=/run/docker.sock", "prod", "/run/docker.sock", ""},
		{"prod=unix:///run/docker.sock", "prod", "/run/docker.sock", ""},
		{"/run/a=b.sock", "", "/run/a=b.sock", ""},
		{"", "", "", "not the path"},
		{"docker.sock", "", "", "not the path"},
		{"prod=docker.sock", "", "", "not the path"},
		{"prod=", "", "", "not the path"},
		{"tcp://10.0.0.1:2375", "", "", "not the path"},
		{"=/run/docker.sock", "", "", "no engine can have"},
		{"a b=/run/docker.sock", "", "", "no engine can have"},
		{"pid=/run/docker.sock", "", "", "something else"},
		{"/" + strings.Repeat("x", 107), "", "", "107"},
		{"/run/\x1b[2J", "", "", "control"},
	}
	for _, tt := range tests {
		name, path, err := ParseSocket(tt.text)
		if name != tt.name || path != tt.path || (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("ParseSocket(%q) = %q, %q, %v, want %q, %q, %s", tt.text, name, path, err, tt.name, tt.path, tt.says)
		}
	}
}
