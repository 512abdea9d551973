package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"meshd/internal/atomicfile"
	"meshd/internal/frame"
)

// MaxPins bounds the pinned names. Beyond it new names are refused: a pin that
// strangers could push out would protect nobody.
const MaxPins = 4096

// maxNick bounds a pin's nickname in bytes.
const maxNick = 255

// maxPinsFile bounds the pins' file in bytes.
const maxPinsFile = 4 << 20

// pinsName is the pins' file in the state directory.
const pinsName = "pins.json"

// pinsRetry is the pause after the file could not be written.
const pinsRetry = 10 * time.Second

// ErrPinsFull says that no further name can be pinned.
var ErrPinsFull = fmt.Errorf("%d peer names are pinned, which is the limit: forget those that are gone (`meshd trust list`, `meshd trust forget NAME`)", MaxPins)

// Pin is the key that a peer name had when it was first a neighbour.
type Pin struct {
	Name     frame.PeerName `json:"name"`
	NickName string         `json:"nickname"` // as of then; it identifies nobody
	Key      Key            `json:"key"`
	Since    time.Time      `json:"since"`
}

// Pins are all pins of a host, kept in a file. Changes are in force at once; Run
// or Save writes them. Methods may be called concurrently.
type Pins struct {
	path string
	log  *slog.Logger
	wake chan struct{} // capacity 1: pins changed; sent by Add, received by Run

	mu   sync.Mutex // guards what follows; never held while writing
	pins map[frame.PeerName]Pin
	edit uint64 // counts changes

	file    sync.Mutex // held while writing; taken before mu
	written uint64     // edit as in the file
}

// OpenPins reads the pins in a state directory. A file that cannot be read for
// what it is gets another name, with a warning: its pins are lost, the evidence is
// not. Other errors are those of reading it.
func OpenPins(dir string, log *slog.Logger) (*Pins, error) {
	p := &Pins{
		path: filepath.Join(dir, pinsName), log: log, wake: make(chan struct{}, 1),
		pins: map[frame.PeerName]Pin{},
	}
	data, err := readBounded(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the pinned keys %s: %w", p.path, plain(err))
	}
	if p.pins, err = parsePins(data); err == nil {
		return p, nil
	}
	aside := fmt.Sprintf("%s.damaged-%s", p.path, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(p.path, aside); err != nil {
		return nil, fmt.Errorf("set aside the damaged %s: %w", p.path, err)
	}
	log.Warn("the pinned keys of peers are damaged and set aside: every peer is pinned anew at first sight",
		"file", p.path, "aside", aside, "err", err)
	p.pins = map[frame.PeerName]Pin{}
	return p, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPinsFile {
		return nil, nil // which is no JSON
	}
	return os.ReadFile(path)
}

// pinsFile is the content of the file.
type pinsFile struct {
	Version int   `json:"version"`
	Pins    []Pin `json:"pins"`
}

func parsePins(data []byte) (map[frame.PeerName]Pin, error) {
	var f pinsFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("version is %d, not 1", f.Version)
	}
	if len(f.Pins) > MaxPins {
		return nil, fmt.Errorf("%d pins, at most %d are taken", len(f.Pins), MaxPins)
	}
	pins := make(map[frame.PeerName]Pin, len(f.Pins))
	for _, pin := range f.Pins {
		if !pin.Name.Valid() || pin.Key == (Key{}) || len(pin.NickName) > maxNick {
			return nil, fmt.Errorf("the pin of %v is not one", pin.Name)
		}
		if _, twice := pins[pin.Name]; twice {
			return nil, fmt.Errorf("%v is pinned twice", pin.Name)
		}
		pins[pin.Name] = pin
	}
	return pins, nil
}

// Find returns the pin of a name.
func (p *Pins) Find(name frame.PeerName) (Pin, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pin, ok := p.pins[name]
	return pin, ok
}

// Room reports whether Add can take the name: ErrPinsFull or nil.
func (p *Pins) Room(name frame.PeerName) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.pins[name]; !known && len(p.pins) >= MaxPins {
		return ErrPinsFull
	}
	return nil
}

// Add pins a name that is not pinned yet, and reports whether it did. It does not
// wait for the disk.
func (p *Pins) Add(name frame.PeerName, nick string, key Key, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.pins[name]; known || len(p.pins) >= MaxPins {
		return false
	}
	p.pins[name] = Pin{Name: name, NickName: nick[:min(len(nick), maxNick)], Key: key, Since: now.UTC().Truncate(time.Second)}
	p.edit++
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

// Forget removes the pin of a name, on the disk too, and reports whether there
// was one.
func (p *Pins) Forget(name frame.PeerName) (Pin, bool, error) {
	p.mu.Lock()
	pin, ok := p.pins[name]
	if ok {
		delete(p.pins, name)
		p.edit++
	}
	p.mu.Unlock()
	if !ok {
		return pin, false, nil
	}
	return pin, true, p.Save()
}

// All lists the pins by name.
func (p *Pins) All() []Pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sortedLocked()
}

func (p *Pins) sortedLocked() []Pin {
	out := make([]Pin, 0, len(p.pins))
	for _, pin := range p.pins {
		out = append(out, pin)
	}
	slices.SortFunc(out, func(a, b Pin) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// Run writes pins that were added until ctx is done, the last ones after it.
func (p *Pins) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			p.saveLogged()
			return
		case <-p.wake:
		}
		if p.saveLogged() {
			continue
		}
		select { // the disk may be full
		case <-ctx.Done():
		case <-time.After(pinsRetry):
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (p *Pins) saveLogged() bool {
	err := p.Save()
	if err != nil {
		p.log.Warn("keys of peers are not kept for a restart", "file", p.path, "err", err)
	}
	return err == nil
}

// Save writes what changed, whole or not at all.
func (p *Pins) Save() error {
	p.file.Lock()
	defer p.file.Unlock()
	p.mu.Lock()
	edit, f := p.edit, pinsFile{Version: 1, Pins: p.sortedLocked()}
	p.mu.Unlock()
	if edit == p.written {
		return nil
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	err = atomicfile.Write(p.path, append(data, '\n'))
	if err == nil || errors.Is(err, atomicfile.ErrUnsynced) {
		p.written = edit
	}
	return err
}
