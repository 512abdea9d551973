package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/routing/control"
	"meshd/tap"
	"meshd/tap/containers"
	"meshd/transport"
)

func TestHealthyMeshHasNotesOnly(t *testing.T) {
	s := newStatus(healthyReport(), now)
	for _, p := range s.Problems {
		if p.Severity != Note {
			t.Errorf("problem of a healthy mesh: %+v", p)
		}
	}
}

func TestProblems(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Report)
		want   Severity
		code   string
		text   string // part of it
	}{
		{"port out of its bridge",
			func(r *Report) { r.Port.State = tap.State{Why: "the bridge is gone"} },
			Error, "port-not-joined", "port meshd0 is not in the bridge weave: the bridge is gone"},
		{"container that is not attached",
			func(r *Report) {
				r.Containers.Containers = []containers.ContainerView{
					{Name: "stopped", ID: "1", Stopped: true, Problem: "it does not run"},
					{Name: "early", ID: "2", Problem: containers.Unseen},
					{Name: "web", ID: "3", Problem: "10.2.1.1 is in use"},
				}
			},
			Warning, "container-not-attached", "container web is not on the overlay: 10.2.1.1 is in use; it is tried again until `meshd detach web`"},
		{"namespace that is not attached",
			func(r *Report) {
				r.Containers.Containers = []containers.ContainerView{{NetNS: "/run/netns/lab", Problem: "it has gone"}}
			},
			Warning, "container-not-attached", "namespace /run/netns/lab is not on the overlay: it has gone"},
		{"port that is taken",
			func(r *Report) {
				r.Containers.Published = []containers.PublishedView{{Spec: "80:web:80", Problem: "tcp port 80 is taken"}}
			},
			Warning, "not-published", "80:web:80 is not published: tcp port 80 is taken; it is tried again until `meshd unpublish 80:web:80`"},
		{"firewall in the way",
			func(r *Report) { r.Containers.Problems = []string{"100% of FORWARD drops: type this"} },
			Warning, "host-on-overlay", "100% of FORWARD drops: type this"},
		{"transport without paths",
			func(r *Report) { r.Transports[0].Problem = "socket closed" },
			Error, "transport-unusable", "transport sleeve makes no paths: socket closed"},
		{"target refuses",
			func(r *Report) { attempt(r, "10.0.0.9", "connection refused", 4*time.Second) },
			Error, "target-unreachable", "1 of 2 targets does not answer: 10.0.0.9:6783: connection refused, next try in 4 s"},
		{"target with port",
			func(r *Report) { attempt(r, "10.0.0.9:6783", "connection refused", 0) },
			Error, "target-unreachable", "not answer: 10.0.0.9:6783: connection refused, next try now"},
		{"target by host name",
			func(r *Report) { attempt(r, "weave09", "i/o timeout", 90*time.Second) },
			Error, "target-unreachable", "weave09 (10.0.0.9:6783): i/o timeout, next try in 90 s"},
		{"target does not resolve",
			func(r *Report) {
				r.Mesh.Targets = append(r.Mesh.Targets, control.TargetSnapshot{Target: "nowhere", Err: "no such host"})
			},
			Error, "target-unreachable", "1 of 2 targets does not answer: nowhere: no such host"},
		{"target by name that is attempted and does not resolve",
			func(r *Report) {
				attempt(r, "nowhere", "lookup nowhere: no such host", 3*time.Second)
				r.Mesh.Targets[1].Addresses, r.Mesh.Targets[1].Err = nil, "no such host"
				r.Mesh.Connections[2].Address = "nowhere:6783"
			},
			Error, "target-unreachable", "nowhere: no such host, next try in 3 s"},
		{"target is never tried again",
			func(r *Report) {
				attempt(r, "10.0.0.9", "peer names collision", 0)
				r.Mesh.Connections[len(r.Mesh.Connections)-1].Never = true
			},
			Error, "target-unreachable", "not tried again until `meshd connect`"},
		{"discovered address",
			func(r *Report) {
				attempt(r, "10.0.0.9", "no route to host", time.Second)
				r.Mesh.Targets = r.Mesh.Targets[:1]
			},
			Warning, "discovered-unreachable", "1 address that other peers know does not answer us: 10.0.0.9:6783: no route to host"},
		{"no path",
			func(r *Report) {
				p := &r.Mesh.Connections[0].Paths[0]
				p.Active, p.State.Up, p.State.Why = false, false, "no heartbeat was answered"
			},
			Error, "no-path", "no path to 02:00:00:00:00:02(weave02) carries frames: sleeve: no heartbeat was answered"},
		{"no path at all",
			func(r *Report) { r.Mesh.Connections[0].Paths = nil },
			Error, "no-path", "no path to 02:00:00:00:00:02(weave02) carries frames"},
		{"small MTU",
			func(r *Report) { r.Mesh.Connections[0].Paths[0].State.MTU = 1200 },
			Warning, "small-mtu", "a path carries less than the bridge's MTU of 1376, so that larger frames are cut or refused: 1200 bytes to 02:00:00:00:00:02(weave02)"},
		{"loss",
			func(r *Report) { r.Mesh.Connections[0].Paths[0].State.Loss = 0.2 },
			Warning, "loss", "over sleeve loses 20.0% of its probes"},
		{"control connection lost",
			func(r *Report) { r.Mesh.Connections[0].Unsessioned = true },
			Warning, "no-control", "is lost and is being made again; frames still pass"},
		{"peer without a route",
			func(r *Report) { r.Mesh.Unicast = r.Mesh.Unicast[:2] },
			Warning, "unreachable-peer", "1 peer has no route: 02:00:00:00:00:03(weave03)"},
		{"connection limit",
			func(r *Report) { r.Mesh.ConnLimit = 2 },
			Warning, "connection-limit", "connection limit of 2 is reached"},
		{"MAC flaps",
			func(r *Report) { r.MACs[1].Flapping = true },
			Warning, "mac-flapping", "1 MAC address moves between peers: two hosts have it, or bridges are joined beside the mesh: 02:00:00:00:09:02"},
		{"no password",
			func(r *Report) { *r = brokenReport() },
			Warning, "unencrypted", "UNENCRYPTED: neither a password (password_file) nor trust.keys is set, so anyone who reaches the control port may join, and frames can be read"},
		{"no password, encrypted all the same",
			func(r *Report) { *r = openReport(); r.Mesh.Connections = r.Mesh.Connections[:1] },
			Warning, "unauthenticated", "UNAUTHENTICATED: neither a password (password_file) nor trust.keys is set"},
		{"no password, encrypted to some",
			func(r *Report) { *r = openReport() },
			Warning, "unencrypted", "frames to 02:00:00:00:00:03(weave03) can be read on the way; to 1 other neighbour they are encrypted"},
		{"no password and no neighbour",
			func(r *Report) { r.Mesh.Encrypted, r.Mesh.Connections = false, nil },
			Warning, "no-password", "UNAUTHENTICATED: neither a password (password_file) nor trust.keys is set, so anyone who reaches the control port may join"},
		{"fallback",
			func(r *Report) {
				c := &r.Mesh.Connections[0]
				better := c.Paths[0]
				better.Transport, better.Active = "punch", false
				better.State.Up, better.State.Why = false, "our datagrams do not reach the neighbour"
				better.State.Addr = netip.MustParseAddrPort("10.0.0.2:6785")
				c.Paths[0].State.Encrypted = false
				c.Paths = append([]transport.PathStats{better}, c.Paths...)
			},
			Warning, "fallback", "punch to 02:00:00:00:00:02(weave02) does not work: our datagrams do not reach the neighbour; " +
				"frames go over sleeve, not encrypted; let UDP between us and 10.0.0.2:6785 pass in both directions"},
		{"tcp carries, all others fail alike",
			func(r *Report) { onTCP(r, "no answer", "no answer", "no answer") },
			Warning, "fallback", "punch, quic and sleeve to 02:00:00:00:00:02(weave02) do not work: no answer; " +
				"frames go over tcp; let UDP between us and 10.0.0.2:6785 and 10.0.0.2:6783 pass in both directions"},
		{"tcp carries, others fail in their own ways",
			func(r *Report) { onTCP(r, "no answer", "handshake timed out", "") },
			Warning, "fallback", "punch (no answer) and quic (handshake timed out) to 02:00:00:00:00:02(weave02) do not work; " +
				"frames go over tcp; let UDP between us and 10.0.0.2:6785 pass in both directions"},
		{"another host of a neighbour's name",
			func(r *Report) {
				r.Mesh.Connections[0].Rival = &control.Rival{NickName: "twin\x1b", Via: "weave03", Addr: netip.MustParseAddrPort("203.0.113.34:42352")}
			},
			Warning, "name-claimed", "two hosts have the peer name of 02:00:00:00:00:02(weave02): it, at 10.142.130.17:6783, and twin\uFFFD, " +
				"which connects from 203.0.113.34:42352 and is known to weave03 and is refused; give one of them another `name`"},
		{"wide port",
			func(r *Report) { r.Port.Wide = []tap.WidePort{{Name: "vc1", MTU: 1500}} },
			Warning, "wide-port", "1 port of the bridge weave has a larger MTU than our port, which has 1376: vc1 (1500); larger frames of the containers behind are lost: attach them by `meshd attach`"},
		{"what a Weave router left",
			func(r *Report) { r.Port.Weave = "vethwe-bridge" },
			Warning, "weave-port", "the bridge weave has the port of a Weave router: if that is stopped, its fast datapath may forward still, and frames come twice: `ip link del vethwe-bridge`"},
		{"a neighbour without proof",
			func(r *Report) { r.Mesh.Connections[0].Paths[0].State.Authenticated = false },
			Warning, "unauthenticated-path", "UNAUTHENTICATED: frames to 02:00:00:00:00:02(weave02) are encrypted, but"},
		{"weak password",
			func(r *Report) { r.Config.PasswordBits = 20 },
			Warning, "weak-password", "at most 20 bits, 50 are wanted"},
		{"open API",
			func(r *Report) { r.Config.HTTP = ":6784" },
			Warning, "open-api", "listens on :6784, beyond loopback"},
		{"trusted subnet",
			func(r *Report) { r.Mesh.Connections[0].Paths[0].State.Encrypted = false },
			Note, "plain-path", "frames to 02:00:00:00:00:02(weave02) are not encrypted"},
		{"stock peers",
			func(*Report) {},
			Note, "stock-peers", "1 neighbour is a stock Weave router, with weave's timers and weave's encryption only: 02:00:00:00:00:03(weave03)"},
		{"alone",
			func(r *Report) { r.Mesh.Targets, r.Mesh.Connections = nil, nil },
			Note, "alone", "this peer is alone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := healthyReport()
			tt.change(&r)
			s := newStatus(r, now)
			i := slices.IndexFunc(s.Problems, func(p Problem) bool { return p.Code == tt.code })
			if i < 0 {
				t.Fatalf("no problem %s in %+v", tt.code, s.Problems)
			}
			if p := s.Problems[i]; p.Severity != tt.want || !strings.Contains(p.Text, tt.text) {
				t.Errorf("%s: %q, want %s: %q", p.Severity, p.Text, tt.want, tt.text)
			}
		})
	}
}

func TestNoProblems(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Report)
		code   string
	}{
		{"a target that is this peer itself", func(r *Report) {
			attempt(r, "10.0.0.9", "cannot connect to ourself", 0)
			r.Mesh.Connections[len(r.Mesh.Connections)-1].Never = true
		}, "target-unreachable"},
		{"a target that is dialled for the first time", func(r *Report) {
			attempt(r, "10.0.0.9", "", 0)
			r.Mesh.Connections[len(r.Mesh.Connections)-1].State = control.StateConnecting
		}, "target-unreachable"},
		{"a target of which another address answers", func(r *Report) {
			attempt(r, "10.0.0.9", "connection refused", 0)
			r.Mesh.Targets[1].Addresses = append(r.Mesh.Targets[1].Addresses, addrs("10.142.130.17:6783")...)
		}, "target-unreachable"},
		{"a target that does not resolve is not a discovered one", func(r *Report) {
			attempt(r, "nowhere", "no such host", 0)
			r.Mesh.Targets[1].Addresses, r.Mesh.Targets[1].Err = nil, "no such host"
			r.Mesh.Connections[2].Address = "nowhere:6783"
		}, "discovered-unreachable"},
		{"unknown loss", func(r *Report) { r.Mesh.Connections[0].Paths[0].State.Loss = -1 }, "loss"},
		{"a small MTU of a new neighbour", func(r *Report) {
			r.Mesh.Connections[0].Since = now.Add(-time.Second)
			r.Mesh.Connections[0].Paths[0].State.MTU = 1200
		}, "small-mtu"},
		{"a path to a new neighbour that is not up yet", func(r *Report) {
			r.Mesh.Connections[0].Since = now.Add(-time.Second)
			onTCP(r, "no answer", "no answer", "no answer")
		}, "fallback"},
		{"unknown MTU", func(r *Report) { r.Mesh.Connections[0].Paths[0].State.MTU = 0 }, "small-mtu"},
		{"a second path that is down", func(r *Report) {
			c := &r.Mesh.Connections[0]
			c.Paths = append(c.Paths, transport.PathStats{Transport: "quic", State: transport.State{Why: "blocked"}})
		}, "no-path"},
		{"weave's API on loopback", func(r *Report) { r.Config.HTTP = "127.0.0.1:6784" }, "open-api"},
		{"a password of unknown strength", func(r *Report) { r.Config.PasswordBits = 0 }, "weak-password"},
		{"no connection limit", func(r *Report) { r.Mesh.ConnLimit = 0 }, "connection-limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := healthyReport()
			tt.change(&r)
			s := newStatus(r, now)
			for _, p := range s.Problems {
				if p.Code == tt.code {
					t.Errorf("problem: %+v", p)
				}
			}
		})
	}
}

// onTCP makes frames to weave02 go over tcp, since punch, quic and sleeve do not work for
// these reasons; empty: there is none.
func onTCP(r *Report, whys ...string) {
	c := &r.Mesh.Connections[0]
	tcp := c.Paths[0]
	tcp.Transport, tcp.State.Encrypted = "tcp", true
	c.Paths = nil
	for i, name := range []string{"punch", "quic", "sleeve"} {
		p := tcp
		p.Transport, p.Active, p.State.Up, p.State.Why = name, false, false, whys[i]
		p.State.Addr = netip.MustParseAddrPort("10.0.0.2:6785")
		if name == "sleeve" {
			p.State.Addr = netip.MustParseAddrPort("10.0.0.2:6783")
		}
		c.Paths = append(c.Paths, p)
	}
	c.Paths = append(c.Paths, tcp)
}

// TestEachFactOnce: what keeps three transports from working is one fact, and so is that
// a peer is relayed.
func TestEachFactOnce(t *testing.T) {
	r := relayedReport()
	onTCP(&r, "no answer", "no answer", "no answer")
	direct := r.Mesh.Connections[len(r.Mesh.Connections)-1]
	direct.For = testName(2) // which is reached at another address
	r.Mesh.Connections = append(r.Mesh.Connections, direct)
	n := map[string]int{}
	for _, p := range newStatus(r, now).Problems {
		n[p.Code]++
	}
	if n["fallback"] != 1 || n["relayed"] != 1 || n["discovered-unreachable"] != 0 {
		t.Errorf("problems %v, want one of fallback and one of relayed", n)
	}
	// Without a look for direct ways nothing else says that the peer is relayed.
	r.Traversal = nil
	if s := newStatus(r, now); !slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "discovered-unreachable" }) {
		t.Errorf("problems %+v", s.Problems)
	}
}

// TestRefused: a peer that does not let us in, or that we do not, is a fault however well it
// is relayed, and the reason why it is.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		err, remedy string
		by          control.Refusal
	}{
		{"not trusted: peer 02:00:00:00:00:04 shows another key", "mend that here", control.RefusedHere},
		{"the peer refuses us: not trusted: peer 02:00:00:00:00:01 shows another key", "mend that on weave04", control.RefusedThere},
	} {
		r := relayedReport()
		attempt := &r.Mesh.Connections[len(r.Mesh.Connections)-1]
		attempt.Err, attempt.Refused = tt.err, tt.by
		s := newStatus(r, now)
		n := map[string]int{}
		for _, p := range s.Problems {
			n[p.Code]++
			if want := "no connection to 1 address that other peers know: 203.0.113.18:6783: " + tt.err; p.Code == "refused" && !strings.Contains(p.Text, want) {
				t.Errorf("problem %q, want %q", p.Text, want)
			}
		}
		if n["refused"] != 1 || n["relayed"] != 0 || n["discovered-unreachable"] != 0 {
			t.Errorf("%s: problems %v, want one of refused", tt.err, n)
		}
		w := newWhy(&s, newHops(&s), testName(4), "weave04", r.Traversal)
		if len(w.Reasons) != 1 || w.Reasons[0] != tt.err || w.Remedy != tt.remedy || w.Failed != nil {
			t.Errorf("why: %+v, want the refusal", w)
		}
	}
}

func TestWorstProblemComesFirst(t *testing.T) {
	s := newStatus(brokenReport(), now)
	rank := []Severity{Error, Warning, Note}
	if len(s.Problems) < 8 || !slices.IsSortedFunc(s.Problems, func(a, b Problem) int {
		return slices.Index(rank, a.Severity) - slices.Index(rank, b.Severity)
	}) {
		t.Errorf("problems = %+v", s.Problems)
	}
}

// attempt adds a target at 10.0.0.9:6783 that fails; "" for err: not yet.
func attempt(r *Report, target, err string, next time.Duration) {
	r.Mesh.Targets = append(r.Mesh.Targets, control.TargetSnapshot{Target: target, Addresses: addrs("10.0.0.9:6783")})
	r.Mesh.Connections = append(r.Mesh.Connections, control.ConnectionSnapshot{
		Address: "10.0.0.9:6783", Outbound: true, State: control.StateFailed, Err: err, NextTry: now.Add(next),
	})
}

func TestLoopback(t *testing.T) {
	tests := map[string]bool{
		"127.0.0.1:6784": true, "127.1.2.3:1": true, "[::1]:6784": true, "localhost:6784": true, "[::ffff:127.0.0.1]:1": true,
		":6784": false, "0.0.0.0:6784": false, "10.0.0.1:6784": false, "[::]:6784": false, "localhost.example:1": false, "": false,
	}
	for address, want := range tests {
		if got := loopback(address); got != want {
			t.Errorf("loopback(%q) = %v, want %v", address, got, want)
		}
	}
}
