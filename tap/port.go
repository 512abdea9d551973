package tap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
	"meshd/internal/netns"
)

// The names and the MTU that a Config gets where it has none. DefaultMTU, in
// bytes, fits every path of stock Weave and of meshd.
const (
	DefaultBridge = "weave"
	DefaultDevice = "meshd0"
	DefaultMTU    = 1376
)

// Config is what Open needs. Its zero value works, for a bridge that exists.
type Config struct {
	Bridge       string // name of the bridge; empty: DefaultBridge
	MTU          int    // bytes; 0: that of the bridge if it exists, else DefaultMTU
	CreateBridge bool   // make the bridge when it is missing, at the start and later
	Device       string // name of the TAP; empty: DefaultDevice
	// PeerName becomes the MAC of a bridge that we make, if it is a locally
	// administered unicast address; else the MAC is random.
	PeerName frame.PeerName
	Offload  string       // OffloadAuto, OffloadOn or OffloadOff; empty: OffloadAuto
	Log      *slog.Logger // nil: no log
}

// Errors that callers and users tell apart; Open wraps them in what was tried.
var (
	ErrPrivilege   = errors.New("CAP_NET_ADMIN is missing: run meshd as root")
	ErrNoTun       = errors.New("the kernel's TAP driver is not there (modprobe tun; in a container, give it --device /dev/net/tun)")
	ErrNoBridge    = errors.New("there is no such bridge and bridge.create is off")
	ErrNotBridge   = errors.New("a device of another kind has the bridge's name: give another bridge.name")
	ErrForeign     = errors.New("it was not made by meshd and is left alone")
	ErrDeviceTaken = errors.New("the name of the TAP is taken: give another tap.name or remove that device")
	ErrRunning     = errors.New("another meshd runs in this network namespace")
	ErrClosed      = errors.New("port is closed")
)

// Port is the TAP on its bridge. Write, Stats, State and Offload may be called
// concurrently, and while Run runs.
type Port struct {
	bridge, device string
	mtu            int
	create         bool
	mode           string    // Config.Offload
	mac            frame.MAC // of the bridge, when we make it
	log            *slog.Logger
	nl             *netlink.Handle // of our namespace, from any thread
	ns             *netns.Namespace

	dev     atomic.Pointer[device] // swapped when the TAP had to be made anew
	kick    chan struct{}          // room for 1; reader to watcher: look; full: it will
	swapped chan struct{}          // room for 1; watcher to reader: dev is another
	count   counters
	writers sync.Pool // of *writer

	// mu guards what follows. It is held during netlink requests: they are
	// answered by the kernel at once, and two repairs must not mix.
	mu          sync.Mutex
	bridgeIndex int  // last seen; 0: never
	bridgeMade  bool // by this Port
	state       State
	closed      bool
}

// State says whether the port is where it belongs.
type State struct {
	Joined  bool      `json:"joined"`
	Why     string    `json:"why,omitempty"` // where not Joined: what is in the way
	Since   time.Time `json:"since"`         // of Joined or not
	Repairs uint64    `json:"repairs"`       // how often the watcher had to put something right
}

// Open makes the bridge if it may and must, and the TAP, and joins them. It needs
// CAP_NET_ADMIN and /dev/net/tun. On error nothing that it made is left.
func Open(cfg Config) (_ *Port, err error) {
	// The namespace is the thread's: stay on it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := newPort(cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.undo())
		}
	}()
	if err := p.chooseMTU(cfg.MTU); err != nil {
		return nil, err
	}
	if err := p.refuseSecond(); err != nil {
		return nil, err
	}
	if _, err := p.joinLocked(); err != nil {
		return nil, err
	}
	p.state = State{Joined: true, Since: time.Now()}
	return p, nil
}

func newPort(cfg Config) (*Port, error) {
	p := &Port{
		bridge: cfg.Bridge, device: cfg.Device, create: cfg.CreateBridge, mode: cfg.Offload,
		mac: bridgeMAC(cfg.PeerName), log: cfg.Log,
		writers: sync.Pool{New: func() any { return new(writer) }},
		kick:    make(chan struct{}, 1), swapped: make(chan struct{}, 1),
	}
	if p.bridge == "" {
		p.bridge = DefaultBridge
	}
	if p.device == "" {
		p.device = DefaultDevice
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := checkNames(p.bridge, p.device); err != nil {
		return nil, err
	}
	if err := checkOffload(p.mode); err != nil {
		return nil, err
	}
	if err := checkHost(); err != nil {
		return nil, err
	}
	var err error
	if p.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if p.ns, err = netns.Current(); err != nil {
		p.nl.Close()
		return nil, err
	}
	return p, nil
}

// Name is the name of the TAP.
func (p *Port) Name() string { return p.device }

// BridgeName is the name of the bridge.
func (p *Port) BridgeName() string { return p.bridge }

// MTU is the largest IP packet in bytes that the port carries, chosen in Open.
func (p *Port) MTU() int { return p.mtu }

// State says whether the port is joined.
func (p *Port) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Run reads frames until ctx is done and then returns nil. handle is called from
// one goroutine, locked to its thread; frames is borrowed: valid until it returns.
// With offloads on, super-frames are among them. Meanwhile the port
// is kept on its bridge: what others delete, down, rename or take away is put
// right within a second. Run may be called again after it returned.
func (p *Port) Run(ctx context.Context, handle func(frames []frame.Frame)) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan error, 1) // the watcher sends once
	go func() {
		defer cancel()
		watched <- p.watch(ctx)
	}()
	p.read(ctx, handle)
	cancel()
	return <-watched
}

// Close removes the TAP, and the bridge if meshd made it and nobody uses it: it
// has no other port, nothing on top of it and no address. Call it after Run has
// returned. A second call does nothing.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	p.state = State{Why: ErrClosed.Error(), Since: time.Now(), Repairs: p.state.Repairs}
	err := errors.Join(p.closeDevice(), p.removeUnused())
	p.nl.Close()
	return errors.Join(err, p.ns.Close())
}

// undo takes back what a failed Open made. Nobody else has the Port yet.
func (p *Port) undo() error {
	err := p.closeDevice()
	if p.bridgeMade {
		err = errors.Join(err, p.removeUnused())
	}
	p.nl.Close()
	return errors.Join(err, p.ns.Close())
}

// closeDevice closes the TAP, if there is one.
func (p *Port) closeDevice() error {
	d := p.dev.Load()
	if d == nil {
		return nil
	}
	if err := d.close(); err != nil {
		return fmt.Errorf("close %s: %w", p.device, err)
	}
	return nil
}
