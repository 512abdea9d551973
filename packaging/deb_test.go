package packaging

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// build makes the package once and returns its path.
var build = sync.OnceValues(func() (string, error) {
	old, _ := filepath.Glob("../dist/meshd_*.deb")
	for _, path := range old {
		os.Remove(path)
	}
	cmd := exec.Command("make", "-C", "..", "deb")
	// As from a shell: neither the flags of the make that runs us, nor those of go test.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "MAKE") || strings.HasPrefix(e, "MFLAGS") })
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), err
	}
	made, err := filepath.Glob("../dist/meshd_*.deb")
	if err != nil || len(made) != 1 {
		return strings.Join(made, " "), fs.ErrNotExist
	}
	return filepath.Abs(made[0])
})

func debFile(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"make", "dpkg-deb", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs ", tool)
		}
	}
	path, err := build()
	if err != nil {
		t.Fatalf("make deb: %v\n%s", err, path)
	}
	return path
}

// chroot is a directory that dpkg takes for a machine: a busybox and nothing else. Its
// systemctl writes down how it was called.
type chroot string

func newChroot(t *testing.T) chroot {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("dpkg --root takes root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox")
	}
	c := chroot(t.TempDir())
	for _, dir := range []string{"bin", "etc", "usr/share", "var/lib/dpkg/info", "var/lib/dpkg/updates", "run/systemd/system", "dev"} {
		c.must(t, os.MkdirAll(c.at(dir), 0o755))
	}
	binary, err := os.ReadFile(busybox)
	c.must(t, err)
	c.must(t, os.WriteFile(c.at("bin/busybox"), binary, 0o755))
	for _, name := range []string{"sh", "rm", "rmdir"} {
		c.must(t, os.Symlink("busybox", c.at("bin/"+name)))
	}
	c.must(t, os.WriteFile(c.at("bin/systemctl"), []byte("#!/bin/sh\necho \"$*\" >>/calls\n"), 0o755))
	c.must(t, os.WriteFile(c.at("var/lib/dpkg/status"), nil, 0o644))
	c.must(t, os.WriteFile(c.at("dev/null"), nil, 0o666)) // it serves
	if out, err := exec.Command("chroot", string(c), "/bin/sh", "-c", "exit 0").CombinedOutput(); err != nil {
		t.Skipf("busybox does not run by itself (busybox-static does): %v %s", err, out)
	}
	return c
}

func (c chroot) at(path string) string { return filepath.Join(string(c), path) }

func (c chroot) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dpkg runs dpkg, in a network namespace of its own in which meshd has left a bridge, and
// returns what it said, and at last which links there are.
func (c chroot) dpkg(t *testing.T, args ...string) string {
	t.Helper()
	const script = `ip link add weave type bridge && ip link set dev weave alias "meshd bridge" && "$@" && ip -o link`
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", "dpkg", "--root=" + string(c), "--force-confold,not-root"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin:/bin", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("dpkg %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// files are all that is there, but dpkg's own.
func (c chroot) files(t *testing.T) map[string]fs.FileMode {
	t.Helper()
	found := map[string]fs.FileMode{}
	c.must(t, filepath.WalkDir(string(c), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, string(c))
		if strings.HasPrefix(name, "/var/lib/dpkg") || strings.HasPrefix(name, "/var/log") || name == "/calls" {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			found[name] = info.Mode()
		}
		return err
	}))
	return found
}

// called says how systemctl was called since the last time.
func (c chroot) called(t *testing.T, want ...string) {
	t.Helper()
	data, _ := os.ReadFile(c.at("calls"))
	os.Remove(c.at("calls"))
	if got := strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }); !slices.Equal(got, want) {
		t.Errorf("systemctl was called %q, want %q", got, want)
	}
}

func TestDeb(t *testing.T) {
	deb, c := debFile(t), newChroot(t)
	before := c.files(t)

	// Installed, and neither enabled nor started.
	if out := c.dpkg(t, "-i", deb); !strings.Contains(out, "meshd is not started") {
		t.Errorf("dpkg -i said\n%s", out)
	}
	c.called(t, "daemon-reload")
	installed := c.files(t)
	for path, mode := range map[string]fs.FileMode{
		"/usr/bin/meshd": 0o755, "/usr/bin/mesh": 0o755, "/usr/lib/systemd/system/meshd.service": 0o644, "/etc/meshd/meshd.yaml": 0o644,
		"/usr/share/man/man8": fs.ModeDir | 0o755, "/usr/share/man/man8/meshd-up.8.gz": 0o644,
		"/usr/share/bash-completion/completions/meshd": 0o644, "/usr/share/zsh/vendor-completions/_meshd": 0o644,
		"/usr/share/fish/vendor_completions.d/meshd.fish": 0o644, "/usr/share/doc/meshd/copyright": 0o644,
	} {
		if got, ok := installed[path]; !ok || got != mode {
			t.Errorf("%s: %v (there: %v), want %v", path, got, ok, mode)
		}
	}
	if out, err := exec.Command("chroot", string(c), "/usr/bin/meshd", "config", "check", "/etc/meshd/meshd.yaml").CombinedOutput(); err != nil {
		t.Errorf("meshd in the package: %v\n%s", err, out)
	}

	// An upgrade keeps what the operator wrote, and restarts what runs.
	c.must(t, os.WriteFile(c.at("etc/meshd/meshd.yaml"), []byte("peers: [w1]\n"), 0o644))
	if out := c.dpkg(t, "-i", deb); !strings.Contains(out, ": weave:") {
		t.Errorf("an upgrade removes the bridge:\n%s", out)
	}
	c.called(t, "daemon-reload", "daemon-reload", "try-restart meshd.service")
	if data, _ := os.ReadFile(c.at("etc/meshd/meshd.yaml")); string(data) != "peers: [w1]\n" {
		t.Errorf("the operator's settings became %q", data)
	}

	// Removed, it takes its bridge along, and leaves settings and the host's identity; purged, nothing.
	c.must(t, os.MkdirAll(c.at("var/lib/meshd"), 0o700))
	c.must(t, os.WriteFile(c.at("var/lib/meshd/identity"), nil, 0o600))
	if out := c.dpkg(t, "-r", "meshd"); strings.Contains(out, ": weave:") {
		t.Errorf("after removal there is the bridge:\n%s", out)
	}
	c.called(t, "disable --now meshd.service", "daemon-reload")
	left := slices.DeleteFunc(slices.Sorted(maps.Keys(c.files(t))), func(p string) bool { _, was := before[p]; return was })
	if want := []string{"/etc/meshd", "/etc/meshd/meshd.yaml", "/var/lib/meshd", "/var/lib/meshd/identity"}; !slices.Equal(left, want) {
		t.Errorf("after removal there is %q, want %q", left, want)
	}
	c.dpkg(t, "-P", "meshd")
	left = slices.DeleteFunc(slices.Sorted(maps.Keys(c.files(t))), func(p string) bool { _, was := before[p]; return was })
	if len(left) > 0 {
		t.Errorf("after purge there is %q", left)
	}
}

// The default configuration says what the defaults are, all of them.
func TestDefaultConfig(t *testing.T) {
	debFile(t)
	data, err := os.ReadFile("meshd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if bare := regexp.MustCompile(`(?m)^[^#\n].*$`).Find(data); bare != nil {
		t.Errorf("%q is not a comment", bare)
	}
	// Prose has a blank behind its #, settings have not, and what is below them has two.
	file := filepath.Join(t.TempDir(), "meshd.yaml")
	if err := os.WriteFile(file, regexp.MustCompile(`(?m)^#(\S|  )`).ReplaceAll(data, []byte("$1")), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("../dist/deb/meshd", append([]string{"config", "show", "--nickname", "host"}, args...)...)
		cmd.Env = []string{}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	written := settings("--config", file)
	bare := func(s string) string { return regexp.MustCompile(` *#.*`).ReplaceAllString(s, "") }
	if got, want := bare(written), bare(settings()); got != want {
		t.Errorf("the file has\n%s\nthe defaults are\n%s", got, want)
	}
	if missing := regexp.MustCompile(`.*# default\n`).FindAllString(written, -1); missing != nil {
		t.Errorf("not in the file: %q", missing)
	}
}
