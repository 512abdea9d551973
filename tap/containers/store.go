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
	return r, nil
}

// save writes a record to disk, for good.
func (s store[T]) save(r T) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := s.path(s.key(r))
	if err := s.write(path, append(data, '\n')); err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err
		}
		return fmt.Errorf("keep it for a restart in %s: %w: nothing was changed; make room there or set state_dir to another directory", s.dir, err)
	}
	return nil
}

func (s store[T]) write(path string, data []byte) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(s.dir)
}

// forget removes a record. One that is not there is no error.
func (s store[T]) forget(key string) error {
	err := os.Remove(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("forget it: %w", err)
	}
	return syncDir(s.dir)
}

// syncDir makes what became of a directory's files last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
