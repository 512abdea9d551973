package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func (f *findings) transports(s *Status) {
	for _, t := range s.Transports {
		if t.Problem != "" {
			f.add(Error, "transport-unusable", "transport %s makes no paths: %s", t.Name, t.Problem)
		}
	}
}

// lossWorthAWord is a share of probes.
const lossWorthAWord = 0.05

// settleTime is how long a new neighbour's paths may take to come up and to find their
// MTU, and frames to move to the best, before it is a fault that they have not.
const settleTime = 3 * time.Second

func (f *findings) neighbours(s *Status) {
	var narrow []string
	for i := range s.Connections {
		c := &s.Connections[i]
		if !c.live() {
			continue
		}
		who := c.Name + "(" + c.NickName + ")"
		f.rival(c, who)
		p := c.activePath()
		switch {
		case p == nil:
			f.add(Error, "no-path", "no path to %s carries frames%s", who, pathFaults(c))
		case settling(c, s.Now):
		case p.MTU != nil && s.Port.MTU != nil && *p.MTU < *s.Port.MTU:
			narrow = append(narrow, fmt.Sprintf("%d bytes to %s", *p.MTU, who))
		}
		if p != nil && p.Loss != nil && *p.Loss >= lossWorthAWord {
			f.add(Warning, "loss", "the path to %s over %s loses %s of its probes", who, p.Transport, percent(*p.Loss))
		}
		if p != nil && (p.Pinned || !settling(c, s.Now)) {
			f.fallback(c, p, who)
		}
		if p != nil && !c.Sessioned {
			f.add(Warning, "no-control", "the control connection to %s is lost and is being made again; frames still pass", who)
		}
	}
	if len(narrow) > 0 {
		f.add(Warning, "small-mtu", "%s less than the bridge's MTU of %d, so that larger frames are cut or refused: %s",
			verb(len(narrow), "a path carries", "paths carry"), *s.Port.MTU, strings.Join(narrow, ", "))
	}
}

// settling reports whether c is new.
func settling(c *Connection, now time.Time) bool {
	return c.Since != nil && now.Sub(*c.Since) < settleTime
}

// fallback reports in one finding the transports before that of p, which carries the
// frames, that do not work between us and c. What an end leaves out, or an operator has chosen by
// hand, is no fallback.
func (f *findings) fallback(c *Connection, p *Path, who string) {
	if p.Pinned {
		f.add(Note, "pinned", "frames to %s go over %s, which was chosen by hand: `meshd transport use %s auto` ends that", who, p.Transport, c.Name)
		return
	}
	f.pinDown(c, p, who)
	var broken []*Path
	for i := range c.Paths {
		better := &c.Paths[i]
		if better.Transport == p.Transport {
			break
		}
		if !better.Up && better.Why != "" && !better.Unused && !better.Pinned {
			broken = append(broken, better)
		}
	}
	if len(broken) == 0 {
		return
	}
	worse := ""
	if !p.Encrypted && slices.ContainsFunc(broken, func(b *Path) bool { return b.Encrypted }) {
		worse = ", not encrypted"
	}
	f.add(Warning, "fallback", "%s; frames go over %s%s; let %s pass in both directions",
		brokenWords(broken, who), p.Transport, worse, passWords(broken))
}

// brokenWords say which transports to a neighbour do not work, and why: once where the
// reason is the same.
func brokenWords(broken []*Path, who string) string {
	alike := !slices.ContainsFunc(broken, func(b *Path) bool { return b.Why != broken[0].Why })
	names := each(broken, func(b *Path) string {
		if alike {
			return b.Transport
		}
		return b.Transport + " (" + b.Why + ")"
	})
	text := fmt.Sprintf("%s to %s %s not work", sentenceList(names), who, doVerb(len(broken)))
	if alike {
		text += ": " + broken[0].Why
	}
	return text
}

// passWords say what a firewall has to let pass for transports: "UDP between us and
// 10.0.0.2:6785".
func passWords(broken []*Path) string {
	var protocols []string
	at := map[string][]string{} // by protocol
	for _, b := range broken {
		protocol, address := protocolOf(b.Transport), b.Address
		if address == "" {
			address = "its address"
		}
		if at[protocol] == nil {
			protocols = append(protocols, protocol)
		}
		if !slices.Contains(at[protocol], address) {
			at[protocol] = append(at[protocol], address)
		}
	}
	return sentenceList(each(protocols, func(protocol string) string {
		return protocol + " between us and " + sentenceList(at[protocol])
	}))
}

// protocolOf is what a firewall has to let pass for a transport.
func protocolOf(transport string) string {
	if transportIs(transport, controlPort) {
		return "TCP"
	}
	return "UDP"
}

// pinDown reports a transport that was chosen by hand while p carries the frames.
func (f *findings) pinDown(c *Connection, p *Path, who string) {
	for i := range c.Paths {
		pin := &c.Paths[i]
		switch {
		case !pin.Pinned:
		case pin.Up:
			f.add(Note, "pin-waits", "%s, chosen by hand for %s, works again and takes over soon; frames go over %s", pin.Transport, who, p.Transport)
		default:
			f.add(Warning, "pin-down", "%s, chosen by hand for %s, does not work: %s; frames go over %s until it does",
				pin.Transport, who, pin.Why, p.Transport)
		}
	}
}

// pathFaults lists why each path of c is down.
func pathFaults(c *Connection) string {
	var out []string
	for _, p := range c.Paths {
		if p.Why != "" {
			out = append(out, p.Transport+": "+p.Why)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, "; ")
}
