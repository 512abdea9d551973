package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"meshd/internal/atomicfile"
	"meshd/routing/control"
)

// memory keeps the addresses of the peers of a running daemon in its state
// directory, so that one that was killed finds the mesh again at once, whatever
// its configuration says. A daemon that ends as asked forgets them: what it is to
// connect to then is in the configuration alone.
type memory struct {
	path string
	log  *slog.Logger
	next chan []control.Remembered // capacity 1: what to write; save replaces it, run takes it
}

// maxMemory bounds the file in bytes.
const maxMemory = 1 << 20

// checkStateDir makes the state directory if there is none, and finds out whether
// files can be made in it.
func checkStateDir(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, atomicfile.TempPattern); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err // the path is in the message, or a name made up here
	}
	return fmt.Errorf("state_dir %s cannot be written to: %w: set state_dir to another directory", dir, err)
}

func newMemory(stateDir string, log *slog.Logger) memory {
	return memory{path: filepath.Join(stateDir, "peers.json"), log: log, next: make(chan []control.Remembered, 1)}
}

// load reads what an earlier run left; nothing if there is none or it is damaged.
func (m memory) load() []control.Remembered {
	info, err := os.Stat(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var data []byte
	if err == nil && info.Size() > maxMemory {
		err = fmt.Errorf("larger than %d bytes", maxMemory)
	}
	if err == nil {
		data, err = os.ReadFile(m.path)
	}
	var peers []control.Remembered
	if err == nil {
		err = json.Unmarshal(data, &peers)
	}
	if err != nil {
		m.log.Warn("peers of the last run are not known", "file", m.path, "err", err)
		return nil
	}
	m.log.Info("the last run did not end as asked: trying its peers", "peers", len(peers))
	return peers
}

// save has the peers written soon. It does not wait for the disk; one goroutine
// calls it.
func (m memory) save(peers []control.Remembered) {
	select {
	case <-m.next: // older, and not written yet
	default:
	}
	m.next <- peers
}

// run writes what save is given until ctx is done.
func (m memory) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case peers := <-m.next:
			if err := m.write(peers); err != nil {
				m.log.Warn("peers are not kept for a restart", "file", m.path, "err", err)
			}
		}
	}
}

// write replaces the file, whole or not at all.
func (m memory) write(peers []control.Remembered) error {
	data, err := json.Marshal(peers)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(m.path, data)
}

// forget removes the file.
func (m memory) forget() {
	if err := os.Remove(m.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("peers of this run are still kept", "file", m.path, "err", err)
	}
}
