package main

import (
	"slices"
	"strings"
	"time"
)

// targets reports the configured targets that do not resolve or do not answer.
func (f *findings) targets(s *Status) {
	var texts []string
	for i := range s.Targets {
		if text := targetFault(s, &s.Targets[i]); text != "" {
			texts = append(texts, text)
		}
	}
	if len(texts) > 0 {
		f.add(Error, "target-unreachable", "%d of %s %s not answer: %s",
			len(texts), count(len(s.Targets), "target"), doVerb(len(texts)), strings.Join(texts, "; "))
	}
	if len(s.Targets) == 0 && !slices.ContainsFunc(s.Connections, func(c Connection) bool { return c.live() }) {
		f.add(Note, "alone", "no targets are configured and no peer has connected: this peer is alone")
	}
}

// targetFault says why a target does not answer, "" if it does or may soon.
func targetFault(s *Status, t *Target) string {
	var failed *Connection
	for i := range s.Connections {
		c := &s.Connections[i]
		if !leadsTo(t, c) {
			continue
		}
		if c.live() || c.Error == "" || ourself(c) {
			return ""
		}
		failed = c
	}
	switch {
	case failed == nil && t.Error == "":
		return ""
	case failed == nil:
		return t.Target + ": " + t.Error
	case t.Error != "":
		return t.Target + ": " + t.Error + ", " + nextTry(failed, s.Now)
	}
	where := failed.Address
	if t.Target != where && t.Target != hostOf(where) {
		where = t.Target + " (" + where + ")"
	}
	return where + ": " + failed.Error + ", " + nextTry(failed, s.Now)
}

// leadsTo reports whether a connection or attempt is one to a target. A target
// that does not resolve is attempted under its name.
func leadsTo(t *Target, c *Connection) bool {
	if len(t.Addresses) > 0 {
		return slices.Contains(t.Addresses, c.Address)
	}
	return t.Target == c.Address || t.Target == hostOf(c.Address)
}

// attempts reports the addresses that other peers know and we do not reach. Of a peer that
// is reached directly at another one it is no problem; and why one is relayed to which a
// direct way is looked for is for relayed to say, and for `meshd why`. No direct way leads to
// one that is refused, and that may be somebody else under its name.
func (f *findings) attempts(s *Status) {
	var texts, refused []string
	for i := range s.Connections {
		c := &s.Connections[i]
		if c.live() || c.Error == "" || ourself(c) || configured(s, c) {
			continue
		}
		w := s.wayOf(c.For)
		if w != nil && w.Path == pathDirect {
			continue
		}
		if c.refused() {
			refused = append(refused, c.Address+": "+c.Error)
			continue
		}
		if w != nil && w.Path == pathRelayed && w.Since != nil {
			continue
		}
		texts = append(texts, c.Address+": "+c.Error+", "+nextTry(c, s.Now))
	}
	if len(refused) > 0 {
		f.add(Warning, "refused", "no connection to %s that other peers know: %s; frames go over relays",
			count(len(refused), "address"), strings.Join(refused, "; "))
	}
	if len(texts) > 0 {
		f.add(Warning, "discovered-unreachable", "%s that other peers know %s not answer us: %s; frames go over relays",
			count(len(texts), "address"), doVerb(len(texts)), strings.Join(texts, "; "))
	}
}

// ourself reports whether an attempt ended at this very peer, which is no
// problem: hosts may share one list of targets.
func ourself(c *Connection) bool { return c.Never && strings.Contains(c.Error, "ourself") }

func configured(s *Status, c *Connection) bool {
	return slices.ContainsFunc(s.Targets, func(t Target) bool { return leadsTo(&t, c) })
}

// rival reports another host that claims a neighbour's name.
func (f *findings) rival(c *Connection, who string) {
	if c.Rival == nil {
		return
	}
	var where []string
	if c.Rival.Address != "" {
		where = append(where, "connects from "+c.Rival.Address)
	}
	if c.Rival.Via != "" {
		where = append(where, "is known to "+c.Rival.Via)
	}
	f.add(Warning, "name-claimed", "two hosts have the peer name of %s: it, at %s, and %s, which %s and is refused; give one of them another `name`",
		who, c.Address, orUnknown(c.Rival.NickName), strings.Join(where, " and "))
}

func (f *findings) mesh(s *Status) {
	var lost []string
	for _, p := range s.Peers {
		if !p.Reachable {
			lost = append(lost, p.Name+"("+p.NickName+")")
		}
	}
	if len(lost) > 0 {
		f.add(Warning, "unreachable-peer", "%s %s no route: %s", count(len(lost), "peer"), haveVerb(len(lost)), strings.Join(lost, ", "))
	}
	if s.ConnLimit > 0 && len(s.Connections) >= s.ConnLimit {
		f.add(Warning, "connection-limit", "the connection limit of %d is reached: no more peers are connected to", s.ConnLimit)
	}
	var stock []string
	for i := range s.Connections {
		if c := &s.Connections[i]; c.Kind == kindOf(false) {
			stock = append(stock, c.Name+"("+c.NickName+")")
		}
	}
	if len(stock) > 0 {
		f.add(Note, "stock-peers", "%s %s a stock Weave router, with weave's timers and weave's encryption only: %s",
			count(len(stock), "neighbour"), beVerb(len(stock)), strings.Join(stock, ", "))
	}
}

// Bounds of what is said of relayed peers.
const (
	relayedFor   = time.Minute // direct ways take a moment to be found
	relayedNamed = 5
)

// relayed reports the peers to which a direct way has been looked for and not found.
func (f *findings) relayed(s *Status) {
	named := map[string]int{}
	for _, p := range s.Peers {
		named[p.NickName]++
	}
	n := 0
	for i := range s.Ways {
		w := &s.Ways[i]
		if w.Path != pathRelayed || w.Since == nil || s.Now.Sub(*w.Since) <= relayedFor || s.refused(w.Name) {
			continue
		}
		if n++; n > relayedNamed {
			continue
		}
		who := w.NickName
		if who == "" || named[who] > 1 {
			who = w.Name
		}
		f.add(Note, "relayed", "%s is relayed through %s: %s; %s (meshd why %s)", who, orUnknown(w.Via), w.Reason, w.Remedy, who)
	}
	if more := n - relayedNamed; more > 0 {
		f.add(Note, "relayed", "%s %s relayed: `meshd status connections` says why", count(more, "more peer"), beVerb(more))
	}
}

// refused reports whether an attempt to connect to a peer was refused, which has its own
// finding.
func (s *Status) refused(peer string) bool {
	return slices.ContainsFunc(s.Connections, func(c Connection) bool { return c.For == peer && c.refused() })
}

// macs reports addresses that two peers have.
func (f *findings) macs(s *Status) {
	var flapping []string
	for _, m := range s.MACs {
		if m.Flapping {
			flapping = append(flapping, m.MAC)
		}
	}
	if len(flapping) > 0 {
		f.add(Warning, "mac-flapping", "%s %s between peers: two hosts have it, or bridges are joined beside the mesh: %s",
			count(len(flapping), "MAC address"), verb(len(flapping), "moves", "move"), strings.Join(flapping, ", "))
	}
}

// nextTry says when an attempt is repeated.
func nextTry(c *Connection, now time.Time) string {
	switch {
	case c.Never:
		return "not tried again until `meshd connect`"
	case c.NextTry == nil || !c.NextTry.After(now):
		return "next try now"
	}
	return "next try in " + seconds(c.NextTry.Sub(now))
}
