package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

// pollTime is how often the daemons are asked while something is waited for.
const pollTime = 50 * time.Millisecond

// measureTime is how long the measuring of paths is waited for.
const measureTime = 5 * time.Second

// start starts the three daemons.
func (s *story) start(ctx context.Context) error {
	s.began = time.Now()
	for _, h := range s.hosts {
		if err := h.peer.Up(); err != nil {
			return err
		}
		s.say.text(fmt.Sprintf("%s# meshd %s", h.nick, s.shorten(h.peer.CommandLine())))
	}
	for _, h := range s.hosts {
		if err := lab.Poll(ctx, pollTime, func() error { return h.alive(ctx, h.peer.Ready) }); err != nil {
			return err
		}
	}
	s.say.ok("all three answer, each with its port on its bridge " + peer.DefaultBridge)
	return nil
}

// shorten writes the lab's directory as $LAB.
func (s *story) shorten(args []string) string {
	return strings.ReplaceAll(strings.Join(args, " "), s.lab.Dir(), "$LAB")
}

// alive runs check, unless the daemon has died: then the wait is over.
func (h *host) alive(ctx context.Context, check func(context.Context) error) error {
	if _, err := h.peer.Process(); err != nil {
		return lab.Final(fmt.Errorf("%s: meshd has ended: %v", h.nick, h.peer.Last().Err()))
	}
	return check(ctx)
}

// form waits for the full mesh and tells of each path as it comes up.
func (s *story) form(ctx context.Context) error {
	if err := s.watch(ctx); err != nil {
		return err
	}
	s.formed = time.Since(s.began)
	s.say.ok("full mesh: weave02 and weave03 were told of " + first + " only and found each other")
	return nil
}

// watch reports paths that come up until all peers are neighbours.
func (s *story) watch(ctx context.Context) error {
	seen := map[string]bool{}
	return lab.Poll(ctx, pollTime, func() error {
		var missing []error
		for i, a := range s.hosts {
			if err := a.alive(ctx, func(context.Context) error { return nil }); err != nil {
				return err
			}
			r, err := a.peer.Report(ctx)
			if err != nil {
				missing = append(missing, err)
				continue
			}
			for _, b := range s.hosts[i+1:] {
				pair := a.nick + " ── " + b.nick
				c, up := r.Active(b.name)
				if up && !seen[pair] {
					seen[pair] = true
					s.say.text(fmt.Sprintf("%6.2f s  %s  over %s to %s", time.Since(s.began).Seconds(), pair, c.Transport, c.Address))
				}
			}
		}
		if len(missing) > 0 {
			return errors.Join(missing...)
		}
		return peer.FullMesh(ctx, s.peers()...)
	})
}

// attach gives each host its container and starts a web server in it.
func (s *story) attach(context.Context) error {
	for _, h := range s.hosts {
		if err := h.peer.Attach(h.container, h.inner); err != nil {
			return err
		}
		listen := h.inside().String() + ":80"
		_, err := h.container.Start(lab.Command{
			Path: s.Binary, Args: []string{"demo", "serve", listen, h.greeting()},
			Log: filepath.Join(s.lab.Dir(), h.container.Name+".log"),
		})
		if err != nil {
			return err
		}
		s.say.text(fmt.Sprintf("%s  %s %s, http://%s/", h.nick, lab.ContainerLink, h.inner, h.inside()))
	}
	return nil
}

// greeting is what the container's web server answers.
func (h *host) greeting() string { return fmt.Sprintf("hello from %s on %s", h.inside(), h.nick) }

// meet measures between all containers.
func (s *story) meet(ctx context.Context) (err error) {
	if s.before, err = s.measure(ctx, s.hosts); err != nil {
		return err
	}
	s.say.text(s.before.lines(s.hosts)...)
	s.say.ok("every container pings every other and fetches its page")
	return nil
}

// stats shows what an operator would see, once the paths have been measured.
func (s *story) stats(ctx context.Context) error {
	shown := s.hosts[0].peer
	limited, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	// Not measured yet is no fault of the mesh: it is shown as it is then.
	_ = lab.Poll(limited, pollTime, func() error { return measured(ctx, shown) })
	out, err := shown.Command(ctx, "transport", "stats")
	if err != nil {
		return err
	}
	s.say.text(strings.Split(strings.TrimRight(out, "\n"), "\n")...)
	return nil
}

// measured is nil when each path in use has a round trip.
func measured(ctx context.Context, p *peer.Peer) error {
	r, err := p.Report(ctx)
	if err != nil {
		return err
	}
	for _, c := range r.Connections {
		for _, path := range c.Paths {
			if path.Active && path.RTT == nil {
				return fmt.Errorf("the path to %s is not measured", c.NickName)
			}
		}
	}
	return nil
}
