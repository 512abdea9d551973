package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

// Prefix is the lab's prefix: one demo at a time runs on a machine.
const Prefix = "meshd-demo"

// stepTime bounds each step of the story.
const stepTime = time.Minute

// Options say how the story is told.
type Options struct {
	Binary string // meshd itself
	NAT    bool   // the story of hosts behind NATs
	Keep   bool   // leave the network up at the end
	Out    io.Writer
	Color  bool // Out is a terminal
}

// story is the state that the steps share.
type story struct {
	Options
	say   printer
	lab   *lab.Lab
	hosts []*host
	sites []*lab.Site // of the story with NATs, one for each host
	told  bool        // to the end
	began time.Time   // the first daemon

	before, during, after matrix // round trips and fetches between containers
	outage                lab.PingStats
	returned              time.Duration // from the restart to a full mesh
	formed                time.Duration // from the first start to a full mesh
}

// step is one chapter.
type step struct {
	title string
	tell  func(*story, context.Context) error
}

var steps = []step{
	{"Build the network: two VLANs, a router, three hosts", (*story).build},
	{"Start meshd on the three hosts", (*story).start},
	{"The mesh forms", (*story).form},
	{"Attach a container to each host, serving HTTP on port 80", (*story).attach},
	{"Ping and fetch between all containers", (*story).meet},
	{"meshd transport stats, on weave01", (*story).stats},
	{"Kill weave01 with kill -9 while weave02 and weave03 talk", (*story).kill},
	{"Start weave01 again", (*story).restart},
	{"Summary", (*story).summary},
}

// Run tells the story. What it built it removes, whatever happens, but with
// Options.Keep after success. It needs root. When ctx is done it stops at once,
// removes everything and returns ctx's cause.
func Run(ctx context.Context, o Options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the demo needs root: it builds network namespaces and starts meshd in them")
	}
	l, err := lab.New(Prefix)
	if errors.Is(err, lab.ErrKept) {
		return errors.New("a demo was left up with --keep: remove it with `meshd demo --remove` first")
	}
	if errors.Is(err, lab.ErrInUse) {
		return fmt.Errorf("another demo is running: %w", err)
	}
	if err != nil {
		return err
	}
	s := &story{Options: o, say: printer{out: o.Out, color: o.Color, start: time.Now()}, lab: l}
	defer func() { err = errors.Join(err, s.end(ctx, err)) }()
	steps := steps
	if o.NAT {
		steps = natSteps
	}
	for i, st := range steps {
		s.say.title(i+1, len(steps), st.title)
		if err := s.tell(ctx, st); err != nil {
			return err
		}
	}
	s.told = true
	return nil
}

// tell runs one step; a step that takes too long has failed.
func (s *story) tell(ctx context.Context, st step) error {
	limited, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	err := st.tell(s, limited)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", st.title, err)
	}
	return nil
}

// end shows what the daemons logged last if the story failed, and removes or
// keeps the network. It runs while a panic passes, too.
func (s *story) end(ctx context.Context, failed error) error {
	if failed != nil && ctx.Err() == nil {
		s.showLogs()
	}
	if s.told && s.Keep {
		return s.keep()
	}
	return s.remove(ctx)
}

// Remove removes a demo that was left up with Keep or by a crash. It needs root.
func Remove(out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("removing the demo needs root")
	}
	found, err := lab.Remove(Prefix)
	if err != nil {
		return fmt.Errorf("remove the demo: %w", err)
	}
	if !found {
		fmt.Fprintln(out, "There is no demo to remove.")
		return nil
	}
	fmt.Fprintln(out, "The demo is removed: no namespace, process or file of it is left.")
	return nil
}

// peers lists the hosts' peers.
func (s *story) peers() []*peer.Peer {
	out := make([]*peer.Peer, len(s.hosts))
	for i, h := range s.hosts {
		out[i] = h.peer
	}
	return out
}
