package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"meshd/internal/atomicfile"
	"meshd/internal/engine"
	"meshd/internal/frame"
	"meshd/internal/subnet"
	"meshd/tap/attach"
	"meshd/tap/claim"
	"meshd/tap/expose"
)

// Times and bounds.
const (
	lookEvery      = 5 * time.Second  // whether all is still as it was asked for
	doubtEvery     = time.Minute      // whether what does not run was removed: containerd does not tell
	restoreTimeout = 30 * time.Second // for one container
	restoresAtOnce = 8
	maxAttachments = 4096
	maxAddresses   = 64 // of one container
	maxExposures   = 64
	maxPublished   = 1024
)

// Engines finds containers; *engine.Engines is one.
type Engines interface {
	Find(ctx context.Context, what string) (engine.Container, error)
	Again(ctx context.Context, c engine.Container) (engine.Container, error)
	Watch(ctx context.Context, report func(engine.Event)) error
}

// Config is what a Keeper needs.
type Config struct {
	Bridge   string
	StateDir string // records are in attachments/ in it
	Proc     string // procfs of the host; empty: /proc
	Engines  Engines
	Exposer  *expose.Exposer
	// Peer says behind which peer a MAC is, in words; empty: unknown.
	Peer func(frame.MAC) string
	// PortOwner says which process has a port of this host; its name is empty where that
	// is not known.
	PortOwner func(port uint16, protocol string) (name string, pid int)
	Log       *slog.Logger
}

// Keeper keeps containers attached, addresses exposed and ports published. All methods
// may be called concurrently.
type Keeper struct {
	Config
	attachments store[Attachment]
	exposures   store[Exposure]
	published   store[Publication]
	claims      claims

	ctx    context.Context // of what runs; done when Run ends
	cancel context.CancelFunc
	wg     sync.WaitGroup // of that; Go is called with mu held and ctx not done
	room   chan struct{}  // for restores: who does one has sent to it
	kick   chan struct{}  // who wants a look sends, Run receives; full: it will look anyway

	exposing   sync.Mutex // one change of exposures at a time; taken before mu
	publishing sync.Mutex // one change of publications at a time; taken before exposing

	mu      sync.Mutex // guards below
	entries map[string]*entry
	exposed []Exposure
	ports   map[string]*port
	trouble string // of the exposures; empty: none
	doubts  int    // calls of doubt so far
}

// entry is a container that was attached, or is about to be.
type entry struct {
	busy sync.Mutex // held while something is done about the container; taken before Keeper.mu

	// Guarded by Keeper.mu.
	want    Attachment
	iface   *attach.Interface // nil: it is not attached
	problem string            // why it is not
	stopped bool              // it does not run; its engine tells when it does
	doubted bool              // that may not be so any more
	waiting bool              // an event's look at it waits for busy
}

// Open reads what was asked for before; Run does it.
func Open(cfg Config) (*Keeper, error) {
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	dir := filepath.Join(cfg.StateDir, "attachments")
	k := &Keeper{
		Config:      cfg,
		attachments: store[Attachment]{dir, "container", Attachment.key, Attachment.check, cfg.Log},
		exposures:   store[Exposure]{dir, "exposed", Exposure.key, Exposure.check, cfg.Log},
		published:   store[Publication]{dir, "published", Publication.key, Publication.check, cfg.Log},
		room:        make(chan struct{}, restoresAtOnce),
		kick:        make(chan struct{}, 1),
		entries:     map[string]*entry{},
		ports:       map[string]*port{},
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	if err := atomicfile.Tidy(dir); err != nil { // load says what is wrong with it
		cfg.Log.Debug("files of a crash stay", "dir", dir, "err", err)
	}
	return k, k.load()
}

func (k *Keeper) load() error {
	attachments, err := k.attachments.load()
	if err != nil {
		return err
	}
	for _, a := range attachments {
		k.entries[a.key()] = &entry{want: a, problem: Unseen}
		k.claim(addrs(a.Addresses), a.owner())
	}
	if k.exposed, err = k.exposures.load(); err != nil {
		return err
	}
	for _, e := range k.exposed {
		k.claim([]netip.Addr{e.Address.Addr()}, host)
	}
	published, err := k.published.load()
	if err != nil {
		return err
	}
	for _, p := range published {
		k.ports[p.key()] = &port{want: p}
	}
	return nil
}

// claim claims addresses of a record, which may be wrong by hand only.
func (k *Keeper) claim(addrs []netip.Addr, who owner) {
	if err := k.claims.take(addrs, who); err != nil {
		k.Log.Warn("two records have one address", "err", err)
	}
}

// Run keeps things as they were asked for until ctx is done. Then published ports are
// closed; interfaces, addresses and rules stay for the next run, unless there is
// nothing that uses them.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.end()
	k.mu.Lock()
	k.wg.Go(func() {
		if err := k.Engines.Watch(ctx, k.heed); err != nil && ctx.Err() == nil {
			k.Log.Warn("containers that restart are noticed late", "err", err)
		}
	})
	k.wg.Go(func() {
		if err := k.Exposer.Run(ctx); err != nil && ctx.Err() == nil {
			k.Log.Warn("rules of the firewall are not restored when somebody removes them", "err", err)
		}
	})
	k.mu.Unlock()
	tick, doubt := time.NewTicker(lookEvery), time.NewTicker(doubtEvery)
	defer tick.Stop()
	defer doubt.Stop()
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-doubt.C:
			k.doubt()
		case <-k.kick:
		}
	}
}

// end closes what must not outlive Run.
func (k *Keeper) end() {
	k.mu.Lock()
	k.cancel()
	k.mu.Unlock()
	k.wg.Wait()
	// By what is there: containers may not have been looked at yet.
	joined, err := attach.Leftovers(k.Bridge)
	used := err != nil || len(k.exposuresNow()) > 0 || slices.ContainsFunc(joined, func(l attach.Leftover) bool { return l.Joined })
	if !used {
		if err := k.Exposer.Remove(); err != nil {
			k.Log.Warn("rules of the firewall stay", "err", err)
		}
	}
}

// all are the entries. Needs mu.
func (k *Keeper) all() []*entry {
	out := make([]*entry, 0, len(k.entries))
	for _, e := range k.entries {
		out = append(out, e)
	}
	return out
}

// Look has it looked at once whether all is as it was asked for.
func (k *Keeper) Look() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// doubt has the next look go to containers that are known not to run, too.
func (k *Keeper) doubt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.entries {
		e.doubted = true
	}
	k.doubts++
}

// heed takes an event of an engine.
func (k *Keeper) heed(e engine.Event) {
	key := attachmentOf(engine.Container{At: e.At, ID: e.ID}).key()
	k.mu.Lock()
	known := k.entries[key]
	k.mu.Unlock()
	switch {
	case e.Kind == engine.Resync:
		k.doubt() // what its engine told may have been missed
		k.Look()
	case known == nil:
	case e.Kind == engine.Removed:
		k.background(func() { k.drop(key, known) })
	default:
		k.told(known)
	}
}

// told has an entry looked at after an event, once nothing is being done about it: what
// is done may have begun before. One look that waits is enough for many events.
func (k *Keeper) told(e *entry) {
	k.mu.Lock()
	waits := e.waiting
	e.waiting = true
	k.mu.Unlock()
	if waits {
		return
	}
	k.background(func() {
		e.busy.Lock()
		defer e.busy.Unlock()
		k.mu.Lock()
		e.waiting = false
		k.mu.Unlock()
		k.restoreHeld(k.ctx, e)
	})
}

// background runs f for as long as Run does.
func (k *Keeper) background(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx.Err() == nil {
		k.wg.Go(f)
	}
}

// look puts right what is not as it was asked for.
func (k *Keeper) look(ctx context.Context) {
	k.restoreExposed(ctx)
	k.restorePublished(ctx) // before containers: engines may be slow to answer
	k.restoreContainers(ctx)
}

func (k *Keeper) restoreContainers(ctx context.Context) {
	joined, err := attach.Leftovers(k.Bridge)
	if err != nil {
		k.Log.Debug("interfaces of containers not listed", "err", err)
		return
	}
	var wg sync.WaitGroup
	k.mu.Lock()
	entries := k.all()
	k.mu.Unlock()
	for _, e := range entries {
		if ctx.Err() != nil || k.settled(e, joined) {
			continue
		}
		wg.Go(func() { k.restore(ctx, e) })
	}
	wg.Wait()
	k.sweep(joined)
}

// explain makes a sentence of who holds an address that is asked for.
func (k *Keeper) explain(h claim.Holder) error {
	who := "MAC " + h.MAC.String()
	if c := k.named(h.MAC); c != "" {
		who = c + " of this host (" + who + ")"
	} else if peer := k.peer(h.MAC); peer != "" {
		who += " behind " + peer
	}
	if h.Device != "" {
		return fmt.Errorf("%s is an address of this host itself, on %s: choose another address", h.Addr, h.Device)
	}
	if h.Probing {
		return fmt.Errorf("%s is being taken by %s at this moment: choose another address", h.Addr, who)
	}
	return fmt.Errorf("%s is in use by %s: choose another address, or free it there", h.Addr, who)
}

func (k *Keeper) peer(m frame.MAC) string {
	if k.Peer == nil {
		return ""
	}
	return k.Peer(m)
}

// named is the container of this host that has a MAC; empty: none.
func (k *Keeper) named(m frame.MAC) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.entries {
		if e.iface != nil && e.iface.MAC == m {
			return e.want.String()
		}
	}
	return ""
}

// probe makes sure that nobody on the overlay has addresses. mine: whose answers do
// not count.
func (k *Keeper) probe(ctx context.Context, addrs []netip.Addr, mine func(frame.MAC) bool) error {
	holders, err := k.holders(ctx, addrs, mine)
	if err != nil {
		return err
	}
	var faults []error
	for _, h := range holders {
		faults = append(faults, k.explain(h))
	}
	return errors.Join(faults...)
}

// holders are those on the overlay who have addresses.
func (k *Keeper) holders(ctx context.Context, addrs []netip.Addr, mine func(frame.MAC) bool) ([]claim.Holder, error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	holders, err := claim.Probe(ctx, k.Bridge, addrs, mine)
	if err != nil {
		return nil, fmt.Errorf("look on the overlay for who has %s: %w", subnet.List(addrs), err)
	}
	return holders, nil
}
