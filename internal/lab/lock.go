package lab

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// keptMark in a lock file says that the lab outlives its owner.
const keptMark = "kept"

// lockFile says who owns a lab: the kernel drops the lock when the owner dies,
// however it dies. Its content is the owner's pid, for people, or keptMark.
type lockFile struct{ f *os.File }

// acquire takes the lock of a prefix; the error is ErrInUse if somebody has it.
func acquire(prefix string) (*lockFile, error) {
	path := filepath.Join(stateDir, prefix+lockExt)
	for {
		if err := os.MkdirAll(stateDir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has removed the directory, which was empty
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			owner, _ := io.ReadAll(f)
			f.Close()
			return nil, fmt.Errorf("%w (%s)", ErrInUse, strings.TrimSpace(string(owner)))
		}
		if !sameFile(f, path) {
			f.Close() // removed between open and lock
			continue
		}
		k := &lockFile{f}
		if !k.kept() {
			if err := k.write(fmt.Sprintf("pid %d", os.Getpid())); err != nil {
				f.Close()
				return nil, err
			}
		}
		return k, nil
	}
}

func sameFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func (k *lockFile) write(s string) error {
	_, err := k.f.WriteAt([]byte(s+"\n"), 0)
	return errors.Join(err, k.f.Truncate(int64(len(s)+1)))
}

func (k *lockFile) keep() error { return k.write(keptMark) }

func (k *lockFile) kept() bool {
	var b [len(keptMark)]byte
	k.f.ReadAt(b[:], 0)
	return string(b[:]) == keptMark
}

// release gives the lock up and leaves the file.
func (k *lockFile) release() error { return k.f.Close() }

// remove removes the file, and the directory if it was the last, and gives the
// lock up.
func (k *lockFile) remove() error {
	err := os.Remove(k.f.Name())
	os.Remove(stateDir)
	return errors.Join(err, k.f.Close())
}
