package expose

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/netns"
)

// DefaultBridge is the bridge that a Config without one means.
const DefaultBridge = "weave"

// Errors that callers tell apart.
var (
	ErrPrivilege = errors.New("CAP_NET_ADMIN is missing: run meshd as root")
	ErrNoBridge  = errors.New("there is no such bridge: start meshd first (meshd up)")
)

// Config says what rules are for. Its zero value works.
type Config struct {
	Bridge string // empty: DefaultBridge
	// TCP and UDP are ports of the host that nobody reaches through the bridge,
	// whatever address of the host he uses.
	TCP, UDP []uint16
	// RouteBetween lets the host route what comes out of the bridge back into an
	// exposed subnet, until Exposer.RouteBetween says otherwise.
	RouteBetween bool
	Log          *slog.Logger // nil: no log
}

// Exposed is an address of the host on the overlay.
type Exposed struct {
	Address    netip.Prefix // with the prefix length of its subnet
	Masquerade bool
}

// state is what an Exposer keeps up.
type state struct {
	up      bool // there are rules
	exposed []Exposed
}

// Exposer keeps addresses and rules as they were asked for. Its methods may be
// called concurrently.
type Exposer struct {
	cfg  Config
	log  *slog.Logger
	ns   *netns.Namespace
	kick chan struct{} // room for 1; to Run: look; full: it will

	// mu guards what follows. It is held during requests to the kernel, which
	// answers at once, and to iptables-legacy: two repairs must not mix.
	mu       sync.Mutex
	between  bool // as Config.RouteBetween
	want     state
	added    []netip.Prefix           // by this Exposer, and not removed by it
	troubles map[string]trouble       // of the last look
	problems atomic.Pointer[[]string] // as the last look found them; nil: none. Replaced with mu held, read without
}

// New returns an Exposer for the network namespace of the calling thread. It
// makes nothing yet.
func New(cfg Config) (*Exposer, error) {
	if cfg.Bridge == "" {
		cfg.Bridge = DefaultBridge
	}
	if len(cfg.Bridge) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("%q is not a name for a network device", cfg.Bridge)
	}
	e := &Exposer{cfg: cfg, log: cfg.Log, between: cfg.RouteBetween, kick: make(chan struct{}, 1)}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if e.ns, err = netns.Current(); err != nil {
		return nil, err
	}
	return e, nil
}

// Close gives up what the Exposer holds on to. Addresses and rules stay, for the
// next run; Remove removes them.
func (e *Exposer) Close() error { return e.ns.Close() }

// Set brings addresses and rules to exactly this; with none exposed the rules
// that the bridge needs always are what there is. On error all is as it was
// before. An address that the bridge had before, from somebody else, counts as
// exposed and is not removed later.
func (e *Exposer) Set(ctx context.Context, exposed []Exposed) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	next := state{up: true, exposed: normal(exposed)}
	return e.inside(func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if err := e.checkLocked(next.exposed); err != nil {
			return err
		}
		before := e.want
		done, err := e.reachLocked(next)
		if err != nil && before.up { // else what an earlier run left is better than nothing
			if _, undone := e.reachLocked(before); undone != nil && undone.Error() != err.Error() {
				err = errors.Join(err, undone)
			}
		}
		if err != nil {
			return err
		}
		e.want = next
		e.log.Debug("host is exposed", "exposed", next.exposed, "done", done)
		e.findProblemsLocked(nil)
		return nil
	})
}

// Remove removes every address that meshd set, this run or one before, and all
// its rules.
func (e *Exposer) Remove() error {
	return e.inside(func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, err := e.reachLocked(state{}); err != nil && !noTables(err) {
			return err
		}
		e.want = state{}
		e.problems.Store(nil)
		return nil
	})
}

// Check says what Set would find wrong with these, before it changes anything.
func (e *Exposer) Check(exposed []Exposed) error {
	return e.inside(func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.checkLocked(normal(exposed))
	})
}

// RouteBetween changes whether the host routes between exposed subnets. Where the rules
// cannot be changed at once, Problems says why and Run tries again.
func (e *Exposer) RouteBetween(on bool) {
	err := e.inside(func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.between == on {
			return nil
		}
		e.between = on
		if e.want.up {
			_, err := e.reachLocked(e.want)
			e.findProblemsLocked(err)
		}
		return nil
	})
	if err != nil {
		e.log.Warn("host goes on as it was with routing between subnets", "bridge", e.cfg.Bridge, "err", err)
	}
}

// Keeps reports whether Run keeps up exactly these, as Set was told last.
func (e *Exposer) Keeps(exposed []Exposed) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.want.up && slices.Equal(e.want.exposed, normal(exposed))
}

// inside calls f on a thread that is in the Exposer's namespace.
func (e *Exposer) inside(f func() error) error { return e.ns.Do(f) }

// findBridge returns nil where there is no bridge.
func (e *Exposer) findBridge() (netlink.Link, error) {
	link, err := netlink.LinkByName(e.cfg.Bridge)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", e.cfg.Bridge, err)
	}
	return link, nil
}

func (e *Exposer) checkLocked(exposed []Exposed) error {
	if len(exposed) == 0 {
		return nil
	}
	bridge, err := e.findBridge()
	if err != nil {
		return err
	}
	if bridge == nil {
		return fmt.Errorf("expose the host on %s: %w", e.cfg.Bridge, ErrNoBridge)
	}
	h, err := lookAtHost(bridge)
	if err != nil {
		return err
	}
	return h.check(exposed)
}

// reachLocked brings addresses and rules to a state and says what it had to do.
// Where nothing is missing it only looks. Addresses go before their rules and
// come after them.
func (e *Exposer) reachLocked(s state) (done []string, err error) {
	// What is deleted by its handle may be gone when the kernel reads the batch:
	// then look again.
	for range 3 {
		if done, err = e.tryLocked(s); !errors.Is(err, unix.ENOENT) {
			return done, err
		}
	}
	return done, err
}

func (e *Exposer) tryLocked(s state) (done []string, err error) {
	rules, err := lookAtRules()
	if err != nil {
		return nil, err
	}
	defer rules.close()
	bridge, err := e.findBridge()
	if err != nil {
		return nil, err
	}
	p := e.plan(s, bridge)
	if p.dockers, err = rules.dockers(); err != nil {
		return nil, err
	}
	var addrs *addressing
	if bridge != nil {
		if addrs, err = e.lookAtAddressesLocked(bridge, rules, s); err != nil {
			return nil, err
		}
		defer addrs.close()
		p.theirs = addrs.theirs
		if err := addrs.removeLocked(e); err != nil {
			return nil, err
		}
	}
	if err := rules.make(p, s.up); err != nil {
		return nil, err
	}
	if err := rules.commit(); err != nil {
		return nil, err
	}
	done = rules.done
	legacy, err := makeLegacy(p, s.up)
	if err != nil {
		return done, err
	}
	done = append(done, legacy...)
	if bridge != nil {
		if err := addrs.addLocked(e); err != nil {
			return done, err
		}
		done = append(done, addrs.done...)
	}
	return done, nil
}

// plan says what a state's rules depend on.
func (e *Exposer) plan(s state, bridge netlink.Link) plan {
	return plan{
		bridge: e.cfg.Bridge, tcp: e.cfg.TCP, udp: e.cfg.UDP, routeBetween: e.between,
		exposed: s.exposed, bridgeThere: bridge != nil, namesBridged: kernelAtLeast(5, 7),
	}
}

// make brings all rules to a plan, or away.
func (r *ruleset) make(p plan, up bool) error {
	var tables []table
	if up {
		tables = p.tables()
	}
	if err := r.makeTables(tables); err != nil {
		return err
	}
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		var passes []pass
		if up {
			passes = p.passes(f == nftables.TableFamilyIPv6)
		}
		if err := r.makePasses(f, passes); err != nil {
			return err
		}
	}
	return nil
}

// kernelAtLeast compares the running kernel's version.
func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}
