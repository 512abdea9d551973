package demo

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// logLines is how much of each daemon's log a failure shows.
const logLines = 15

// summary shows what was measured.
func (s *story) summary(context.Context) error {
	s.say.text(fmt.Sprintf("%-32s  %-9s  %-12s  %s", "ping", "at first", "weave01 dead", "weave01 back"))
	for i, a := range s.hosts {
		for _, b := range s.hosts[i+1:] {
			s.say.text(fmt.Sprintf("%-14s ── %-14s  %-9s  %-12s  %s", a.inside(), b.inside(),
				s.before.rtt(a, b), s.during.rtt(a, b), s.after.rtt(a, b)))
		}
	}
	s.say.text("",
		fmt.Sprintf("mesh formed in                    %.1f s", s.formed.Seconds()),
		fmt.Sprintf("lost while weave01 died           %d of %d pings", s.outage.Lost(), s.outage.Sent),
		fmt.Sprintf("weave01 back after                %.1f s", s.returned.Seconds()),
		fmt.Sprintf("whole demo                        %.1f s", s.say.elapsed().Seconds()))
	return nil
}

// showLogs prints the end of the daemons' logs.
func (s *story) showLogs() {
	for _, h := range s.hosts {
		lines := h.peer.Tail(logLines)
		if len(lines) == 0 {
			continue
		}
		state := "runs"
		if _, err := h.peer.Process(); err != nil {
			state = "has ended"
		}
		s.say.heading(fmt.Sprintf("The last log lines of %s, which %s", h.nick, state))
		s.say.text(lines...)
	}
}

// remove removes everything and looks whether it did.
func (s *story) remove(ctx context.Context) error {
	s.say.heading("Remove everything")
	if ctx.Err() != nil {
		s.say.text("interrupted")
	}
	if err := s.lab.Close(); err != nil {
		s.say.bad(err.Error())
		return fmt.Errorf("remove the demo: %w", err)
	}
	if left := s.lab.Leftovers(); len(left) > 0 {
		return fmt.Errorf("remove the demo: left behind: %s", strings.Join(left, ", "))
	}
	s.say.ok("no namespace, process or file of the demo is left")
	return nil
}

// keep leaves all as it is and says how to go on.
func (s *story) keep() error {
	if err := s.lab.Keep(); err != nil {
		return fmt.Errorf("keep the demo: %w", err)
	}
	s.say.heading("The network stays up")
	s.say.text("status of a host:")
	for _, h := range s.hosts {
		s.say.text(fmt.Sprintf("  %s --socket %s status", s.Binary, h.peer.Socket()))
	}
	s.say.text("enter a host or a container:")
	for _, h := range s.hosts {
		s.say.text("  "+enter(h.peer.Host.Name)+" sh", "  "+enter(h.container.Name)+" sh")
	}
	s.say.text("remove it:", "  "+s.Binary+" demo --remove")
	return nil
}

// enter is the command that enters a namespace with the tools at hand.
func enter(name string) string {
	if _, err := exec.LookPath("ip"); err == nil {
		return "ip netns exec " + name
	}
	return "nsenter --net=/run/netns/" + name
}
