// Package atomicfile writes files that are there whole or not at all, whatever
// crashes, and that outlive a crash of the host. All have mode 0600.
//
//	write .new-RANDOM ─► fsync it ─► rename, or link ─► fsync the directory
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// TempPattern is how files are called that are being written, for os.CreateTemp: what
// is left of them is removed by Tidy.
const TempPattern = tempPrefix + "*"

const tempPrefix = ".new-"

// tempAge is how old a file is that nobody can be writing any more.
const tempAge = time.Minute

// ErrUnsynced says that it is done, and what a restart finds, but that a crash of the
// host may take it back.
var ErrUnsynced = errors.New("it may not outlive a crash of this host")

// Write replaces a file, or makes it. On errors, which are *fs.PathError, nothing is
// changed, unless they wrap ErrUnsynced. Several may write one file: the last one
// stays.
func Write(path string, data []byte) error {
	return write(path, data, os.Rename)
}

// Create makes a file as Write does, and never over another one: then its errors wrap
// fs.ErrExist.
func Create(path string, data []byte) error {
	return write(path, data, func(temp, path string) error {
		err := os.Link(temp, path)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return errors.Join(err, os.Remove(temp))
		}
		if _, there := os.Lstat(path); there == nil {
			return errors.Join(fs.ErrExist, os.Remove(temp))
		}
		return os.Rename(temp, path) // the file system has no links
	})
}

// Remove removes a file for good. Errors are those of os.Remove, or wrap ErrUnsynced.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(path)
}

// Tidy removes what writes to files of a directory have left that a crash cut short.
// What is younger than a minute may be another process's and stays. A directory that
// does not exist has nothing.
func Tidy(dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), tempPrefix) {
			continue
		}
		info, err := f.Info()
		if err == nil && time.Since(info.ModTime()).Abs() > tempAge { // either way, should the clock be wrong
			err = os.Remove(filepath.Join(dir, f.Name()))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// write writes a file next to path and has place put it there.
func write(path string, data []byte, place func(temp, path string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), TempPattern)
	if err != nil {
		return named(path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return named(path, err)
	}
	return syncDir(path)
}

// named has an error speak of the file that was meant, once, and not of one that has
// gone.
func named(path string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	} else if l, ok := errors.AsType[*os.LinkError](err); ok {
		err = l.Err
	}
	return &fs.PathError{Op: "write", Path: path, Err: err}
}

// syncDir makes last what became of a name.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrUnsynced)
	}
	return nil
}
