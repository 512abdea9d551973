package docker

import (
	"fmt"
	"regexp"
	"strings"
)

// status looks at what mesh status says, in the layout of Weave Net 2.x.
func status(w *world) {
	names := map[*host]string{}
	for _, h := range w.hosts {
		v, err := h.status()
		w.must(err)
		names[h] = v.Name
	}
	for i, h := range w.hosts {
		targets := min(i, 1) // weave01 was told of nobody
		out := h.do("mesh", "status") + "\n"
		for _, line := range []string{
			"        Service: router\n",
			"       Protocol: weave 1..2\n",
			"           Name: " + names[h] + "(" + h.name + ")\n",
			"     Encryption: disabled\n",
			"  PeerDiscovery: enabled\n",
			fmt.Sprintf("        Targets: %d\n", targets),
			"    Connections: 2 (2 established)\n",
			"          Peers: 3 (with 6 established connections)\n",
			" TrustedSubnets: none\n",
			"         Bridge: weave (joined)\n",
			"           Ways: direct to 2 peers, relayed to 0\n",
		} {
			if !strings.Contains(out, line) {
				w.Errorf("%s: mesh status has no line %q:\n%s", h.name, line, out)
			}
		}
		statusPeers(w, h, names)
		statusConnections(w, h, names)
		roundTrips(w, h, names)
	}
}

// a line of mesh status peers or connections begins with who dialled whom where.
const (
	dialledAt  = `(->|<-) (\S+):(\d+) +`
	peerLine   = `   ` + dialledAt + `(\S+)\((\S+)\) +established\n`
	directLine = dialledAt + `established UNAUTHENTICATED punch  (\S+)\((\S+)\) encrypted=truemtu=1413\n`
)

// statusPeers sees that each peer is there with its connections to the two others.
func statusPeers(w *world, h *host, names map[*host]string) {
	w.Helper()
	out := h.do("mesh", "status", "peers") + "\n"
	for _, peer := range w.hosts {
		_, of, ok := strings.Cut(out, names[peer]+"("+peer.name+")\n")
		if !ok {
			w.Errorf("%s: mesh status peers has no %s:\n%s", h.name, peer.name, out)
			continue
		}
		own := regexp.MustCompile(`^(?:` + peerLine + `)*`).FindString(of)
		connectionLines(w, peer, regexp.MustCompile(`(?m)^`+peerLine).FindAllStringSubmatch(own, -1), names, out)
	}
}

// statusConnections sees the same of the host's own connections.
func statusConnections(w *world, h *host, names map[*host]string) {
	w.Helper()
	out := h.do("mesh", "status", "connections") + "\n"
	connectionLines(w, h, regexp.MustCompile(`(?m)^`+directLine).FindAllStringSubmatch(out, -1), names, out)
}

// connectionLines checks lines about the connections of a host, one to each other. Who
// came later has dialled: the port is where the other listens, or whatever the dialler
// had, unless the session is over QUIC, which has one port at both ends.
func connectionLines(w *world, h *host, lines [][]string, names map[*host]string, out string) {
	w.Helper()
	seen := map[string]bool{}
	for _, l := range lines {
		arrow, addr, port, name, nick := l[1], l[2], l[3], l[4], l[5]
		for _, other := range w.hosts {
			if other == h || other.name != nick {
				continue
			}
			seen[nick] = true
			listens := port == "6783" || port == "6785"
			if names[other] != name || other.addr != addr || arrow == "->" && !listens || arrow == "<-" && port == "6783" {
				w.Errorf("%s is connected by %q, want -> ADDRESS:6783 or <- with a port of the other's", h.name, l[0])
			}
		}
	}
	if len(lines) != 2 || len(seen) != 2 {
		w.Errorf("%s has %d connections to %d hosts, want one to each other:\n%s", h.name, len(lines), len(seen), out)
	}
}

// roundTrips sees that each pair has a round-trip time, for those who ask why it is slow.
func roundTrips(w *world, h *host, names map[*host]string) {
	w.Helper()
	v, err := h.status()
	w.must(err)
	stats := h.do("mesh", "transport", "stats")
	for _, other := range w.hosts {
		if other == h {
			continue
		}
		active := 0
		for _, c := range v.Connections {
			for _, p := range c.Paths {
				if c.Name == names[other] && p.Active && p.RTT != nil && *p.RTT > 0 {
					active++
				}
			}
		}
		if active != 1 {
			w.Errorf("%s has %d active paths with an RTT to %s, want 1", h.name, active, other.name)
		}
		row := regexp.MustCompile(`(?m)^` + names[other] + ` +` + other.name + ` +punch +active .* \d+(\.\d+)?(µs|ms) `)
		if !row.MatchString(stats) {
			w.Errorf("%s: mesh transport stats has no RTT of the path to %s:\n%s", h.name, other.name, stats)
		}
		pong := h.do("mesh", "ping", "-c", "1", other.name)
		if !regexp.MustCompile(`(?m)^answer from ` + other.name + ` .* direct over punch .* time=\d`).MatchString(pong) {
			w.Errorf("%s: mesh ping %s says\n%s", h.name, other.name, pong)
		}
	}
}
