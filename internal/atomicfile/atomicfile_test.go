package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meshd/internal/netns"
)

// crasher is the variable of the process that is killed while it writes: the file.
const crasher = "MESHD_ATOMICFILE_CRASHER"

// content is what a file may hold: much of one byte.
func content(n int) []byte { return bytes.Repeat([]byte{byte('a' + n%26)}, 300_000) }

func TestMain(m *testing.M) {
	if path := os.Getenv(crasher); path != "" {
		for n := 0; ; n++ {
			if err := Write(path, content(n)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			if n == 0 {
				fmt.Println("written")
			}
		}
	}
	os.Exit(m.Run())
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(path, []byte("longer than what comes"), 0o644))
	for _, want := range []string{"one", "", "three"} {
		must(t, Write(path, []byte(want)))
		wantFile(t, path, want)
	}
	wantOnly(t, filepath.Dir(path), "f")
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	must(t, Create(path, []byte("one")))
	wantFile(t, path, "one")
	if err := Create(path, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a file = %v, want %v", err, fs.ErrExist)
	}
	must(t, os.Symlink("nowhere", path+"2"))
	if err := Create(path+"2", []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a link to nothing = %v, want %v", err, fs.ErrExist)
	}
	wantFile(t, path, "one")
	wantOnly(t, filepath.Dir(path), "f", "f2")
}

// TestCreateAtOnce: one wins, and no other says that it did.
func TestCreateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var wg sync.WaitGroup
	won := make(chan int, 20) // one of each at most
	for n := range cap(won) {
		wg.Go(func() {
			switch err := Create(path, content(n)); {
			case err == nil:
				won <- n
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d have made it, want 1", len(won))
	}
	wantFile(t, path, string(content(<-won)))
	wantOnly(t, filepath.Dir(path), "f")
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	must(t, Write(path, nil))
	must(t, Remove(path))
	if err := Remove(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove of nothing = %v, want %v", err, fs.ErrNotExist)
	}
	wantOnly(t, filepath.Dir(path))
}

// TestErrors: an error names the file that was meant, and that alone.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "full", "x"), 0o700))
	for name, want := range map[string]error{"none/f": fs.ErrNotExist, "file/f": unix.ENOTDIR, "full": unix.EEXIST} {
		path := filepath.Join(dir, name)
		err := Write(path, nil)
		p, ok := errors.AsType[*fs.PathError](err)
		if !ok || p.Path != path || !errors.Is(err, want) || strings.Contains(err.Error(), tempPrefix) {
			t.Errorf("Write(%s) = %v, want %v of it", name, err, want)
		}
	}
	wantOnly(t, dir, "file", "full")
}

// TestDiskFull: what was there stays, and nothing else.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	onTmpfs(t, dir, func() {
		path := filepath.Join(dir, "f")
		must(t, Write(path, []byte("before")))
		room := make([]byte, 1<<20)
		if err := os.WriteFile(filepath.Join(dir, "ballast"), room, 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk has room for %d bytes: %v", len(room), err)
		}
		for what, err := range map[string]error{"Write": Write(path, content(0)), "Create": Create(path+"2", content(0))} {
			if !errors.Is(err, unix.ENOSPC) || errors.Is(err, ErrUnsynced) {
				t.Errorf("%s on a full disk = %v, want %v", what, err, unix.ENOSPC)
			}
		}
		wantFile(t, path, "before")
		wantOnly(t, dir, "ballast", "f")
		must(t, os.Remove(filepath.Join(dir, "ballast")))
		must(t, Write(path, []byte("after")))
		wantFile(t, path, "after")
	})
}

// onTmpfs calls f with a file system of 128 KiB at dir, on a thread of its own.
func onTmpfs(t *testing.T, dir string, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts take root")
	}
	must(t, netns.OnOwnThread(func() error {
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("none", dir, "tmpfs", 0, "size=128k")
		}
		if err == nil {
			f()
		}
		return err
	}))
}

// TestReadersSeeOneWhole: while it is written again and again.
func TestReadersSeeOneWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	must(t, Write(path, content(0)))
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for n := range 30 {
				if err := Write(path, content(w+n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ended := make(chan struct{}) // closed when they have written
	go func() { wg.Wait(); close(ended) }()
	for reads := 0; ; reads++ {
		wantWhole(t, path)
		select {
		case <-ended:
			wantOnly(t, filepath.Dir(path), "f")
			return
		default:
		}
	}
}

// TestCrash kills processes while they write.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	self, err := os.Executable()
	must(t, err)
	for n := range 20 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), crasher+"="+path)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Duration(n) * 100 * time.Microsecond) // anywhere in a write
		must(t, cmd.Process.Kill())
		cmd.Wait()
		wantWhole(t, path)
	}
	must(t, os.WriteFile(filepath.Join(dir, tempPrefix+"1"), nil, 0o600)) // one at least
	must(t, os.WriteFile(filepath.Join(dir, ".new"), nil, 0o600))         // somebody else's
	must(t, Tidy(dir))
	if len(temps(t, dir)) == 0 {
		t.Error("Tidy removed what may be being written")
	}
	for i, name := range temps(t, dir) {
		old := time.Now().Add(time.Duration(1-i%2*2) * 2 * tempAge) // by a clock that was wrong, too
		must(t, os.Chtimes(filepath.Join(dir, name), old, old))
	}
	must(t, Tidy(dir))
	wantOnly(t, dir, ".new", "f")
	must(t, Tidy(filepath.Join(dir, "none")))
}

func temps(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		if strings.HasPrefix(f.Name(), tempPrefix) {
			names = append(names, f.Name())
		}
	}
	return names
}

func wantWhole(t *testing.T, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || len(got) == 0 || !bytes.Equal(got, content(int(got[0]-'a'))) {
		t.Fatalf("a reader sees %d bytes that are no content: %v", len(got), err)
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %.20q, %v, want %.20q", path, got, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%s is %v, %v, want mode 0600", path, info.Mode(), err)
	}
}

// wantOnly checks what a directory holds, in order.
func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, f := range files {
		got = append(got, f.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
