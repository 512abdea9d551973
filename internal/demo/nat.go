package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

// The second story: two hosts behind NATs of their own, and a public one.

var natSteps = []step{
	{"Build the network: an Internet, a public host, two sites behind NATs", (*story).buildNAT},
	{"Start meshd on the public host, then on the two others", (*story).startNAT},
	{"weave02 and weave03: relayed at first, then direct", (*story).upgrade},
	{"What the NATs do: meshd nat, on weave02", (*story).showNAT},
	{"Both NATs reboot while the containers talk", (*story).rebootNAT},
	{"weave01, the only public host, dies: the direct way goes on", (*story).killPublic},
}

// natPlan is the hosts and what each is behind.
var natPlan = []struct {
	hostPlan
	kind lab.NATKind
}{
	{hostPlan{nick: "weave01", name: "02:00:00:00:00:01", container: "c10", inner: netip.MustParsePrefix("192.168.99.10/24")}, lab.NATNone},
	{hostPlan{nick: "weave02", name: "02:00:00:00:00:02", container: "c21", inner: netip.MustParsePrefix("192.168.99.21/24")}, lab.NATPortRestricted},
	{hostPlan{nick: "weave03", name: "02:00:00:00:00:03", container: "c31", inner: netip.MustParsePrefix("192.168.99.31/24")}, lab.NATPortRestricted},
}

// buildNAT makes the sites.
func (s *story) buildNAT(context.Context) error {
	internet, err := s.lab.Internet("internet")
	if err != nil {
		return err
	}
	for _, p := range natPlan {
		site, err := internet.Site(p.nick, lab.SiteConfig{NAT: p.kind})
		if err != nil {
			return err
		}
		container, err := s.lab.Namespace(p.container)
		if err != nil {
			return err
		}
		h := &host{hostPlan: p.hostPlan, container: container}
		if len(s.hosts) > 0 {
			h.targets = []string{s.hosts[0].addr.Addr().String()}
		}
		h.addr = netip.PrefixFrom(site.Inside(), 24)
		if h.peer, err = peer.New(site.Host().Namespace, peer.Config{
			Binary: s.Binary, Dir: filepath.Join(s.lab.Dir(), p.nick), Name: p.name, NickName: p.nick, Peers: h.targets,
		}); err != nil {
			return err
		}
		s.hosts, s.sites = append(s.hosts, h), append(s.sites, site)
	}
	s.say.text(
		fmt.Sprintf("weave02 %-15s ── NAT %s ─┐", s.sites[1].Inside(), s.sites[1].Outside),
		fmt.Sprintf("  └ 192.168.99.21                            Internet ── weave01 %s", s.sites[0].Inside()),
		fmt.Sprintf("weave03 %-15s ── NAT %s ─┘              └ 192.168.99.10", s.sites[2].Inside(), s.sites[2].Outside),
		"  └ 192.168.99.31",
	)
	s.say.ok("the NATs let nothing in that nobody inside has asked for")
	return nil
}

// startNAT starts the public daemon, then the others.
func (s *story) startNAT(ctx context.Context) error {
	for i, h := range s.hosts {
		if i == 1 {
			s.began = time.Now()
		}
		if err := h.peer.Up(); err != nil {
			return err
		}
		s.say.text(fmt.Sprintf("%s# meshd %s", h.nick, s.shorten(h.peer.CommandLine())))
		if i == 0 {
			if err := lab.Poll(ctx, pollTime, func() error { return h.alive(ctx, h.peer.Ready) }); err != nil {
				return err
			}
		}
	}
	for _, h := range s.hosts {
		if err := lab.Poll(ctx, pollTime, func() error { return h.alive(ctx, h.peer.Ready) }); err != nil {
			return err
		}
		if err := h.peer.Attach(h.container, h.inner); err != nil {
			return err
		}
	}
	s.say.ok("both know the public host only")
	return nil
}

// upgrade watches the way from weave02 to weave03 become direct.
func (s *story) upgrade(ctx context.Context) error {
	a, b := s.hosts[1], s.hosts[2]
	ping, err := a.container.Ping(b.inside(), lab.PingConfig{Interval: outagePing})
	if err != nil {
		return err
	}
	defer ping.Stop(0)
	last, answered := "", false
	err = lab.Poll(ctx, pollTime, func() error {
		w, text, err := why(ctx, a, b)
		if err != nil {
			return err
		}
		if w != last {
			last = w
			line, _, _ := strings.Cut(text, "\n")
			s.say.text(fmt.Sprintf("%6.2f s  %s", time.Since(s.began).Seconds(), line))
		}
		if !answered && ping.Stats(0).Received > 0 {
			answered = true
			s.say.text(fmt.Sprintf("%6.2f s  first frame from container to container", time.Since(s.began).Seconds()))
		}
		if w != "direct" || !answered {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.say.ok(fmt.Sprintf("frames crossed from the first second; the way is direct after %.1f s", time.Since(s.began).Seconds()))
	return nil
}

// why is the path, and all that `meshd why` says.
func why(ctx context.Context, a, b *host) (path, text string, err error) {
	out, err := a.peer.Command(ctx, "why", "--json", b.name)
	if err != nil {
		return "", "", err
	}
	var w struct {
		Path string `json:"path"`
	}
	if err := json.Unmarshal([]byte(out), &w); err != nil {
		return "", "", err
	}
	text, err = a.peer.Command(ctx, "why", b.name)
	return w.Path, text, err
}

// showNAT shows what an operator would see.
func (s *story) showNAT(ctx context.Context) error {
	for _, args := range [][]string{{"nat"}, {"why", "weave03"}} {
		out, err := s.hosts[1].peer.Command(ctx, args...)
		if err != nil {
			return err
		}
		s.say.text(append([]string{"weave02# meshd " + strings.Join(args, " ")}, strings.Split(strings.TrimRight(out, "\n"), "\n")...)...)
	}
	return nil
}

// rebootNAT makes the NATs forget everything.
func (s *story) rebootNAT(ctx context.Context) error {
	outage, err := s.through(ctx, func() error {
		for _, site := range s.sites[1:] {
			if err := site.Reboot(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.say.ok(fmt.Sprintf("healed: no answer for %v at the longest", outage.Outage.Round(10*time.Millisecond)))
	return nil
}

// killPublic kills the relay.
func (s *story) killPublic(ctx context.Context) error {
	outage, err := s.through(ctx, func() error { return s.hosts[0].peer.Kill() })
	if err != nil {
		return err
	}
	s.say.ok(fmt.Sprintf("%d of %d pings lost", outage.Lost(), outage.Sent))
	return nil
}

// afterFault is how long the containers ping on after something happened.
const afterFault = 4 * time.Second

// through pings from weave02's container to weave03's while something happens.
func (s *story) through(ctx context.Context, happens func() error) (lab.PingStats, error) {
	ping, err := s.hosts[1].container.Ping(s.hosts[2].inside(), lab.PingConfig{Interval: outagePing})
	if err != nil {
		return lab.PingStats{}, err
	}
	defer ping.Stop(0)
	if err := answers(ctx, ping, 50); err != nil {
		return lab.PingStats{}, err
	}
	if err := happens(); err != nil {
		return lab.PingStats{}, err
	}
	select {
	case <-time.After(afterFault):
	case <-ctx.Done():
		return lab.PingStats{}, context.Cause(ctx)
	}
	if err := answers(ctx, ping, 50); err != nil {
		return lab.PingStats{}, err
	}
	stats := ping.Stop(pingGrace)
	s.say.text("ping: " + stats.String())
	if stats.Outage > promised {
		return stats, fmt.Errorf("no answer for %v, longer than %v", stats.Outage, promised)
	}
	return stats, nil
}
