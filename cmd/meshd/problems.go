package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"meshd/tap/containers"
)

// Severity says how bad a problem is.
type Severity string

// The severities, worst first.
const (
	Error   Severity = "error"   // something asked for does not work
	Warning Severity = "warning" // it works, worse or less safely than it could
	Note    Severity = "note"    // good to know
)

// Problem is one thing that an operator should know, in words.
type Problem struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"` // stable, for scripts
	Text     string   `json:"text"`
}

const (
	wantedPasswordBits = 50   // what weave's documentation asks for
	lossWorthAWord     = 0.05 // share of probes
)

// findings collects problems.
type findings []Problem

func (f *findings) add(severity Severity, code, format string, args ...any) {
	*f = append(*f, Problem{severity, code, fmt.Sprintf(format, args...)})
}

// problems names what is wrong with s, worst first.
func problems(s *Status, c ConfigReport) []Problem {
	f := findings{}
	f.port(s)
	f.widePorts(s)
	f.containers(s)
	f.pending(c)
	f.transports(s)
	f.targets(s)
	f.attempts(s)
	f.neighbours(s)
	f.mesh(s)
	f.relayed(s)
	f.macs(s)
	f.encryption(s, c)
	f.exposure(c)
	rank := map[Severity]int{Error: 0, Warning: 1, Note: 2}
	slices.SortStableFunc(f, func(a, b Problem) int { return rank[a.Severity] - rank[b.Severity] })
	return f
}

func (f *findings) port(s *Status) {
	if s.Port.Joined {
		return
	}
	why := s.Port.Problem
	if why == "" {
		why = "it is being joined again"
	}
	f.add(Error, "port-not-joined", "port %s is not in the bridge %s: %s", s.Port.Device, s.Port.Bridge, why)
}

// widePorts reports ports of the bridge from which large frames are lost.
func (f *findings) widePorts(s *Status) {
	for _, w := range s.Port.Wide {
		f.add(Warning, "wide-port", "%s on the bridge %s has MTU %d, our port %s: larger frames of the container behind it are lost; set both its ends to that",
			w.Name, s.Port.Bridge, w.MTU, figure(s.Port.MTU))
	}
}

// containers reports what was attached, exposed or published and is not so now. A
// container that does not run, or was not looked for yet, is no fault.
func (f *findings) containers(s *Status) {
	for _, c := range s.Containers.Containers {
		if c.Attached || c.Stopped || c.Problem == "" || c.Problem == containers.Unseen {
			continue
		}
		what, who := "container", cmp.Or(c.Name, c.ID, c.NetNS)
		if c.ID == "" {
			what = "namespace"
		}
		f.add(Warning, "container-not-attached", "%s %s is not on the overlay: %s; it is tried again until `meshd detach %s`", what, who, c.Problem, who)
	}
	for _, p := range s.Containers.Published {
		if (len(p.Listen) == 0 || p.Target == "") && p.Problem != "" {
			f.add(Warning, "not-published", "%s is not published: %s; it is tried again until `meshd unpublish %s`", p.Spec, p.Problem, p.Spec)
		}
	}
	for _, text := range s.Containers.Problems {
		f.add(Warning, "host-on-overlay", "%s", text)
	}
}

// pending reports settings that are in the file and not in force.
func (f *findings) pending(c ConfigReport) {
	if len(c.NeedRestart) > 0 {
		f.add(Warning, "needs-restart", "%s changed in %s and not in force until a restart: %s",
			count(len(c.NeedRestart), "setting"), c.File, strings.Join(c.NeedRestart, "; "))
	}
}

func (f *findings) transports(s *Status) {
	for _, t := range s.Transports {
		if t.Problem != "" {
			f.add(Error, "transport-unusable", "transport %s makes no paths: %s", t.Name, t.Problem)
		}
	}
}

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
// direct way is looked for is for relayed to say, and for `meshd why`.
func (f *findings) attempts(s *Status) {
	var texts []string
	for i := range s.Connections {
		c := &s.Connections[i]
		if c.live() || c.Error == "" || ourself(c) || configured(s, c) {
			continue
		}
		if w := s.wayOf(c.For); w != nil && (w.Path == pathDirect || w.Path == pathRelayed && w.Since != nil) {
			continue
		}
		texts = append(texts, c.Address+": "+c.Error+", "+nextTry(c, s.Now))
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

func (f *findings) neighbours(s *Status) {
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
		case p.MTU != nil && s.Port.MTU != nil && *p.MTU < *s.Port.MTU:
			f.add(Warning, "small-mtu", "the path to %s carries %d bytes, less than the bridge's MTU of %d: larger frames are cut or refused",
				who, *p.MTU, *s.Port.MTU)
		}
		if p != nil && p.Loss != nil && *p.Loss >= lossWorthAWord {
			f.add(Warning, "loss", "the path to %s over %s loses %s of its probes", who, p.Transport, percent(*p.Loss))
		}
		if p != nil {
			f.fallback(c, p, who)
		}
		if p != nil && !c.Sessioned {
			f.add(Warning, "no-control", "the control connection to %s is lost and is being made again; frames still pass", who)
		}
	}
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

// sentenceList says "a", "a and b", "a, b and c".
func sentenceList(list []string) string {
	last := len(list) - 1
	if last < 1 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:last], ", ") + " and " + list[last]
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
		if w.Path != pathRelayed || w.Since == nil || s.Now.Sub(*w.Since) <= relayedFor {
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

func (f *findings) encryption(s *Status, c ConfigReport) {
	if !s.PasswordSet && len(s.Trust.Keys) == 0 {
		f.noPassword(s)
		return
	}
	if c.PasswordBits > 0 && c.PasswordBits < wantedPasswordBits {
		f.add(Warning, "weak-password", "the password is weak (at most %.0f bits, %d are wanted): one message of the handshake suffices to guess it offline",
			c.PasswordBits, wantedPasswordBits)
	}
	for i := range s.Connections {
		c := &s.Connections[i]
		switch p := c.activePath(); {
		case p == nil:
		case !p.Encrypted && !s.PasswordSet:
			f.add(Warning, "unencrypted", "UNENCRYPTED: frames to %s(%s) can be read and forged on the way: over %s only a password (password_file) encrypts",
				c.Name, c.NickName, p.Transport)
		case !p.Encrypted:
			f.add(Note, "plain-path", "frames to %s(%s) are not encrypted: both ends trust each other's subnet", c.Name, c.NickName)
		case !p.Authenticated:
			f.add(Warning, "unauthenticated-path", "UNAUTHENTICATED: frames to %s(%s) are encrypted, but it proved neither that it knows the password nor a key of trust.keys",
				c.Name, c.NickName)
		}
	}
}

// noPassword says how far the frames of an open mesh are safe.
func (f *findings) noPassword(s *Status) {
	const join = "neither a password (password_file) nor trust.keys is set, so anyone who reaches the control port may join"
	var plain []string
	encrypted := 0
	for i := range s.Connections {
		c := &s.Connections[i]
		switch p := c.activePath(); {
		case p == nil:
		case p.Encrypted:
			encrypted++
		default:
			plain = append(plain, c.Name+"("+c.NickName+")")
		}
	}
	switch {
	case encrypted == 0 && len(plain) == 0:
		f.add(Warning, "no-password", "UNAUTHENTICATED: "+join)
	case encrypted == 0:
		f.add(Warning, "unencrypted", "UNENCRYPTED: "+join+", and frames can be read on the way")
	case len(plain) == 0:
		f.add(Warning, "unauthenticated", "UNAUTHENTICATED: "+join+" or stand in between; frames are encrypted")
	default:
		f.add(Warning, "unencrypted", "UNENCRYPTED: "+join+", and frames to %s can be read on the way; to %s they are encrypted",
			strings.Join(plain, ", "), count(encrypted, "other neighbour"))
	}
}

func (f *findings) exposure(c ConfigReport) {
	if c.HTTP != "" && !loopback(c.HTTP) {
		f.add(Warning, "open-api", "weave's HTTP API listens on %s, beyond loopback: whoever reaches it can read and change the mesh", c.HTTP)
	}
}

// loopback reports whether a listening address cannot be reached from other
// hosts.
func loopback(address string) bool {
	if strings.HasPrefix(address, "localhost:") {
		return true
	}
	ap, err := netip.ParseAddrPort(address)
	return err == nil && ap.Addr().Unmap().IsLoopback()
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

// count says "1 target", "2 targets", "2 addresses".
func count(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func doVerb(n int) string   { return verb(n, "does", "do") }
func haveVerb(n int) string { return verb(n, "has", "have") }
func beVerb(n int) string   { return verb(n, "is", "are") }

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
