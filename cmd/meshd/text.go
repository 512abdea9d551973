package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"meshd/tap"
)

// What the commands print of a Status. The layouts of weave are in weave.go.

// printStatus writes what is wrong, then weave's overview, then what weave has
// no words for.
func printStatus(w io.Writer, s *Status) error {
	var b strings.Builder
	printProblems(&b, s)
	b.WriteString("\n")
	writeWeaveStatus(&b, newWeaveReport(s))
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%15s: "+format+"\n", append([]any{label}, args...)...)
	}
	b.WriteString("\n")
	line("Service", "port")
	line("Device", "%s", orUnknown(s.Port.Device))
	line("Bridge", "%s (%s)", orUnknown(s.Port.Bridge), joinedWord(s.Port.Joined))
	line("MTU", "%s", figure(s.Port.MTU))
	line("Offload", "%s", portOffload(s.Port.Offload))
	line("MACs", "%d", len(s.MACs))
	b.WriteString("\n")
	line("Service", "transports")
	line("Order", "%s", orNone(each(s.Transports, func(t TransportView) string { return t.Name })))
	for _, t := range s.Transports {
		if len(t.Sockets) > 0 {
			line("Offload", "%s %s", t.Name, socketsText(t.Sockets))
		}
	}
	line("Paths", "%s", pathCounts(s))
	line("Ways", "%s", wayCounts(s))
	_, err := io.WriteString(w, b.String())
	return err
}

// printProblems writes the first block of a status.
func printProblems(w io.Writer, s *Status) {
	if len(s.Problems) == 0 || s.Problems[0].Severity == Note {
		paths := ", all with a working path"
		if neighbours(s) == 0 {
			paths = ""
		}
		fmt.Fprintf(w, "OK       %s, %s%s\n", count(len(s.Peers), "peer"), count(neighbours(s), "neighbour"), paths)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "%-8s %s\n", strings.ToUpper(string(p.Severity)), p.Text)
	}
}

func joinedWord(joined bool) string {
	if joined {
		return "joined"
	}
	return "NOT joined"
}

func neighbours(s *Status) (n int) {
	for i := range s.Connections {
		if s.Connections[i].live() {
			n++
		}
	}
	return n
}

// pathCounts says how many paths are up, and over which transports frames go.
func pathCounts(s *Status) string {
	up, all := 0, 0
	active := map[string]int{}
	for i := range s.Connections {
		for _, p := range s.Connections[i].Paths {
			all++
			if p.Up {
				up++
			}
			if p.Active {
				active[p.Transport]++
			}
		}
	}
	var words []string
	for _, t := range s.Transports {
		if n := active[t.Name]; n > 0 {
			words = append(words, fmt.Sprintf("%s to %s", t.Name, count(n, "neighbour")))
		}
	}
	return fmt.Sprintf("%d of %d up%s", up, all, parenthesized("frames over ", strings.Join(words, ", "), ""))
}

func printConnections(w io.Writer, s *Status) error {
	var b strings.Builder
	writeWeaveConnections(&b, newWeaveReport(s))
	if neighbours(s) > 0 {
		t := newTable("PEER", "NICKNAME", "AUTHENTICATION", "KEY")
		for i := range s.Connections {
			if c := &s.Connections[i]; c.live() {
				t.row(c.Name, orUnknown(c.NickName), authenticationWord(c), orUnknown(c.Key))
			}
		}
		b.WriteString("\n")
		if err := t.write(&b); err != nil {
			return err
		}
	}
	if err := writeWays(&b, s); err != nil {
		return err
	}
	writeRelayed(&b, s)
	_, err := io.WriteString(w, b.String())
	return err
}

// authenticationWord says how it is known who a neighbour is.
func authenticationWord(c *Connection) string {
	if c.Authentication == "" {
		return unauthenticated
	}
	return c.Authentication
}

func printPeers(w io.Writer, s *Status) error {
	var b strings.Builder
	writeWeavePeers(&b, newWeaveReport(s))
	_, err := io.WriteString(w, b.String())
	return err
}

func printTargets(w io.Writer, s *Status) error {
	var b strings.Builder
	writeWeaveTargets(&b, newWeaveReport(s))
	_, err := io.WriteString(w, b.String())
	return err
}

// printMACs writes the MAC table.
func printMACs(w io.Writer, s *Status) error {
	t := newTable("MAC", "PEER", "NICKNAME", ">LAST SEEN", "NOTE")
	for _, m := range s.MACs {
		note := ""
		if m.Flapping {
			note = "moves between peers"
		}
		t.row(m.MAC, m.Name, orUnknown(m.NickName), seconds(s.Now.Sub(m.LastSeen))+" ago", note)
	}
	return t.write(w)
}

// printRoutes writes what the forwarder goes by.
func printRoutes(w io.Writer, s *Status) error {
	nick := nicknames(s)
	t := newTable("DESTINATION", "NICKNAME", "VIA", "NICKNAME")
	for _, r := range s.Routes.Unicast {
		switch r.Via {
		case "":
			t.row(r.Dest, orUnknown(nick[r.Dest]), "ourselves", "")
		case r.Dest:
			t.row(r.Dest, orUnknown(nick[r.Dest]), "direct", "")
		default:
			t.row(r.Dest, orUnknown(nick[r.Dest]), r.Via, nick[r.Via])
		}
	}
	if err := t.write(w); err != nil {
		return err
	}
	t = newTable("FLOODED BY", "NICKNAME", "PASSED ON TO")
	for _, r := range s.Routes.Broadcast {
		to := each(r.Via, func(name string) string { return name + "(" + nick[name] + ")" })
		t.row(r.Source, orUnknown(nick[r.Source]), orNobody(to))
	}
	fmt.Fprintln(w)
	return t.write(w)
}

func orNobody(list []string) string {
	if len(list) == 0 {
		return "nobody"
	}
	return strings.Join(list, " ")
}

func nicknames(s *Status) map[string]string {
	nick := map[string]string{}
	for _, p := range s.Peers {
		nick[p.Name] = p.NickName
	}
	return nick
}

// printTransports writes one line per configured transport.
func printTransports(w io.Writer, s *Status) error {
	t := newTable(">ORDER", "TRANSPORT", "LISTEN", ">PATHS", ">UP", "ENC", ">IN USE", ">TX", ">TX BIT/S", ">RX", ">RX BIT/S",
		">DROPS", "OFFLOAD", "PROBLEM")
	for i := range s.Transports {
		v := &s.Transports[i]
		t.row(fmt.Sprint(v.Order), v.Name, orUnknown(v.Listen), fmt.Sprint(v.Paths), fmt.Sprint(v.Up),
			orUnknown(encryptionOf(s, v.Name)), fmt.Sprint(v.InUse),
			humanBytes(v.Tx.Bytes), bitsText(v.TxRate), humanBytes(v.Rx.Bytes), bitsText(v.RxRate),
			fmt.Sprint(dropCount(v.Tx)+dropCount(v.Rx)), socketsText(v.Sockets), v.Problem)
	}
	return t.write(w)
}

// encryptionOf lists what the paths over a transport that are up have.
func encryptionOf(s *Status, transport string) string {
	var words []string
	for i := range s.Connections {
		for j := range s.Connections[i].Paths {
			p := &s.Connections[i].Paths[j]
			if word := encryptionWord(p); p.Transport == transport && p.Up && !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// printStats writes a line per neighbour and path, then what each has carried.
func printStats(w io.Writer, s *Status) error {
	t := newTable("PEER", "NICKNAME", "TRANSPORT", "STATE", "ADDRESS", "ENC", ">MTU", ">RTT", ">MIN", ">LOSS", ">KEYS", "WHY")
	for i := range s.Connections {
		c := &s.Connections[i]
		if !c.live() {
			continue
		}
		if len(c.Paths) == 0 {
			t.row(c.Name, orUnknown(c.NickName), unknown, c.State, unknown, unknown, unknown, unknown, unknown,
				unknown, unknown, "no path yet")
		}
		for j := range c.Paths {
			t.row(pathRow(c, &c.Paths[j], s.Now)...)
		}
	}
	if err := t.write(w); err != nil {
		return err
	}
	if err := printTraffic(w, s); err != nil {
		return err
	}
	return writeWays(w, s)
}

func pathRow(c *Connection, p *Path, now time.Time) []string {
	return []string{
		c.Name, orUnknown(c.NickName), p.Transport, pathState(p), orUnknown(p.Address), encryptionWord(p),
		figure(p.MTU), rttText(p), minRTTText(p), lossText(p), keysText(p), pathNote(p, now),
	}
}

// pathNote says why a path is down, or why it is in use or not although it is up.
func pathNote(p *Path, now time.Time) string {
	var notes []string
	add := func(note string) { notes = append(notes, note) }
	if p.Why != "" {
		add(p.Why)
	}
	if p.Pinned {
		add("chosen by hand")
	}
	if p.Lossy {
		add("loses too many probes")
	}
	if p.TakesOver != nil && p.HealthySince != nil {
		add(fmt.Sprintf("healthy for %s, takes over at %s", seconds(now.Sub(*p.HealthySince)), seconds(p.TakesOver.Sub(*p.HealthySince))))
	}
	return strings.Join(notes, "; ")
}

// pathState says active for the path in use, standby for one that could be.
func pathState(p *Path) string {
	switch {
	case p.Unused && !p.Up:
		return "unused"
	case !p.Up:
		return "down"
	case p.Active:
		return "active"
	}
	return "standby"
}

// encryptionWord is unknown for a path that is not up: it may be negotiated yet.
func encryptionWord(p *Path) string {
	switch {
	case p.Encrypted && p.Up && !p.Authenticated:
		return unauthenticated
	case p.Encrypted:
		return "yes"
	case p.Up:
		return "no"
	}
	return unknown
}

// unauthenticated is how a path is called that is encrypted, to whoever is at the
// other end.
const unauthenticated = "UNAUTHENTICATED"

// portOffload says what the port leaves to the kernel, and why not more.
func portOffload(o tap.Offload) string {
	if !o.On {
		return because("off", o.Why)
	}
	return because(strings.Join(append([]string{"on"}, o.Features...), " "), o.Why)
}

// socketsText says what sockets leave to the kernel, once where all do the same.
func socketsText(sockets []Socket) string {
	var texts []string
	for _, s := range sockets {
		if text := socketOffload(s.Offload); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}

func socketOffload(o SocketOffload) string {
	text := "off"
	switch {
	case o.GSO && o.GRO:
		text = "on"
	case o.GSO:
		text = "sending"
	case o.GRO:
		text = "reading"
	}
	return because(text, o.Why)
}

// because adds a reason, which may say the word itself.
func because(word, why string) string {
	if strings.HasPrefix(why, word+" ") {
		return why
	}
	return word + parenthesized("", why, "")
}
