package containers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"meshd/internal/atomicfile"
)

// maxRecord bounds a file in bytes.
const maxRecord = 64 << 10

// store keeps records of one kind in files of their own, so that a damaged one takes
// no other with it. A file is replaced whole or not at all. Its methods may be called
// concurrently for different keys.
type store[T any] struct {
	dir  string
	kind string // the files are called kind-HASH.json
	key  func(T) string
	ok   func(T) error // what is wrong with a record that somebody edited
	log  *slog.Logger
}

// path is the file of a record. Keys are what users and engines call things: a hash of
// them is a safe name of a file.
func (s store[T]) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.dir, s.kind+"-"+hex.EncodeToString(sum[:8])+".json")
}

// load reads all records. A damaged file is set aside, with a warning.
func (s store[T]) load() (records []T, err error) {
	files, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is attached: %w", err)
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), s.kind+"-") || !strings.HasSuffix(f.Name(), ".json") {
			continue
		}
		path := filepath.Join(s.dir, f.Name())
		r, err := s.read(path)
		if err != nil {
			s.log.Warn("a record is damaged and set aside: do again what it was for", "file", path+".damaged", "err", err)
			_ = os.Rename(path, path+".damaged") // otherwise it is read again at the next start
			continue
		}
		records = append(records, r)
	}
	return records, nil
}

func (s store[T]) read(path string) (r T, err error) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return r, err
	case !info.Mode().IsRegular():
		return r, errors.New("not a file")
	case info.Size() > maxRecord:
		return r, fmt.Errorf("larger than %d bytes", maxRecord)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, err
	}
	if s.path(s.key(r)) != path {
		return r, errors.New("it does not belong to what it says")
	}
	return r, s.ok(r)
}

// save writes a record to disk, for good.
func (s store[T]) save(r T) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	err = os.MkdirAll(s.dir, 0o700)
	if err == nil {
		err = s.last(atomicfile.Write(s.path(s.key(r)), append(data, '\n')))
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err // the directory is in the message
	}
	if err != nil {
		return fmt.Errorf("keep it for a restart in %s: %w: nothing was changed; make room there or set state_dir to another directory", s.dir, err)
	}
	return nil
}

// forget removes a record. One that is not there is no error, on a disk neither that
// cannot be written to.
func (s store[T]) forget(key string) error {
	path := s.path(key)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err := s.last(atomicfile.Remove(path)); err != nil {
		return fmt.Errorf("forget it: %w", err)
	}
	return nil
}

// last takes it for done that a crash of the host may take back: that is what a restart
// of meshd finds, and no reason to say that nothing was done.
func (s store[T]) last(err error) error {
	if !errors.Is(err, atomicfile.ErrUnsynced) {
		return err
	}
	s.log.Warn("records may not outlive a crash of this host", "dir", s.dir, "err", err)
	return nil
}
