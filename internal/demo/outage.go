package demo

import (
	"context"
	"fmt"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

const (
	outagePing = 10 * time.Millisecond
	// pingGrace is how long the last replies of a series are waited for.
	pingGrace = 2 * time.Second
	// promised is the longest outage between two hosts when a third one dies.
	promised = 3 * time.Second
)

// kill kills weave01 and shows that the others go on.
func (s *story) kill(ctx context.Context) error {
	dead, a, b := s.hosts[0], s.hosts[1], s.hosts[2]
	ping, err := a.container.Ping(b.inside(), lab.PingConfig{Interval: outagePing})
	if err != nil {
		return err
	}
	defer ping.Stop(0) // on the way out of a failure
	if err := answers(ctx, ping, 50); err != nil {
		return err
	}
	if err := dead.peer.Kill(); err != nil {
		return err
	}
	s.say.text(fmt.Sprintf("weave01 is dead; %s pings %s every %v all the while", a.inside(), b.inside(), outagePing))
	if err := s.noticed(ctx, dead, a, b); err != nil {
		return err
	}
	if s.during, err = s.measure(ctx, []*host{a, b}); err != nil {
		return err
	}
	if err := answers(ctx, ping, 50); err != nil {
		return err
	}
	s.outage = ping.Stop(pingGrace)
	s.say.text("ping: " + s.outage.String())
	s.say.text(s.during.lines([]*host{a, b})...)
	if s.outage.Outage > promised {
		return fmt.Errorf("%s and %s lost each other for %v, longer than %v", a.nick, b.nick, s.outage.Outage, promised)
	}
	s.say.ok(fmt.Sprintf("weave02 and weave03 go on: %d of %d pings lost", s.outage.Lost(), s.outage.Sent))
	return nil
}

// answers waits for this many more replies.
func answers(ctx context.Context, ping *lab.Ping, more int) error {
	want := ping.Stats(0).Received + more
	return lab.Poll(ctx, outagePing, func() error {
		if got := ping.Stats(0); got.Received < want {
			return fmt.Errorf("pings between the containers: %v", got)
		}
		return nil
	})
}

// noticed waits until the others know that a host is gone.
func (s *story) noticed(ctx context.Context, dead *host, others ...*host) error {
	begin := time.Now()
	for _, h := range others {
		err := lab.Poll(ctx, pollTime, func() error {
			r, err := h.peer.Report(ctx)
			if err != nil {
				return err
			}
			if r.Reaches(dead.name) {
				return fmt.Errorf("%s believes that %s lives", h.nick, dead.nick)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.say.text(fmt.Sprintf("both know after %.1f s", time.Since(begin).Seconds()))
	return nil
}

// restart starts weave01 again and waits until everything is as before. Its
// container and bridge stayed where they were.
func (s *story) restart(ctx context.Context) error {
	begin := time.Now()
	if err := s.hosts[0].peer.Up(); err != nil {
		return err
	}
	err := lab.Poll(ctx, pollTime, func() error {
		return s.hosts[0].alive(ctx, func(ctx context.Context) error { return peer.FullMesh(ctx, s.peers()...) })
	})
	if err != nil {
		return err
	}
	s.returned = time.Since(begin)
	s.say.text(fmt.Sprintf("full mesh again after %.1f s, under the same name", s.returned.Seconds()))
	if s.after, err = s.measure(ctx, s.hosts); err != nil {
		return err
	}
	s.say.text(s.after.lines(s.hosts)...)
	s.say.ok("weave01 and its container are back")
	return nil
}
