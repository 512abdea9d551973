package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"meshd/routing/control"
)

// resolveReport has what is hard to tell apart: a nickname that two peers have,
// and one that looks like a name.
func resolveReport() Report {
	r := healthyReport()
	m := &r.Mesh
	m.Peers = append(m.Peers,
		control.PeerSnapshot{Name: testName(4), NickName: "twin"},
		control.PeerSnapshot{Name: testName(5), NickName: "twin"},
		control.PeerSnapshot{Name: testName(6), NickName: "unseen"},
	)
	m.Targets = append(m.Targets,
		control.TargetSnapshot{Target: "weave03.example.net", Addresses: addrs("10.107.153.153:6783")},
		control.TargetSnapshot{Target: "[fd00::9]:7000", Addresses: addrs("[fd00::9]:7000")},
	)
	return r
}

// quicReport has a peer whose only session is over QUIC, by a target of its own.
func quicReport() Report {
	r := resolveReport()
	m := &r.Mesh
	m.Targets = append(m.Targets,
		control.TargetSnapshot{Target: "quic://weave07.example.net", Addresses: addrs("10.0.0.7:6785")},
		control.TargetSnapshot{Target: "10.0.0.8", Addresses: addrs("10.0.0.8:6783", "10.0.0.8:6785")},
	)
	m.Peers = append(m.Peers, control.PeerSnapshot{Name: testName(7), NickName: "weave07"})
	m.Peers[0].Connections = append(m.Peers[0].Connections, control.PeerConnection{
		Name: testName(7), NickName: "weave07", Address: "10.0.0.7:6785", Carrier: control.CarrierQUIC, Established: true,
	})
	m.Connections = append(m.Connections, control.ConnectionSnapshot{
		Address: "10.0.0.7:6785", Carrier: control.CarrierQUIC, Outbound: true, State: control.StateEstablished,
		Name: testName(7), NickName: "weave07", Native: true, Version: 2, Since: now,
	})
	return r
}

func TestFindPeer(t *testing.T) {
	s := newStatus(resolveReport(), now)
	tests := []struct {
		arg, want string // want: a name, empty for none
		err       string
	}{
		{"02:00:00:00:00:02", "02:00:00:00:00:02", ""},
		{"02:00:00:00:00:99", "", ""},
		{"weave02", "02:00:00:00:00:02", ""},
		{"WEAVE02", "", ""},
		{"10.142.130.17", "02:00:00:00:00:02", ""},
		{"10.142.130.17:6783", "02:00:00:00:00:02", ""},
		{"10.142.130.17:6784", "", ""},
		{"10.107.153.153", "02:00:00:00:00:03", ""},
		{"10.142.130.16", "02:00:00:00:00:01", ""},
		{"twin", "", `"twin" is the nickname of 2 peers: 02:00:00:00:00:04, 02:00:00:00:00:05; use a name`},
		{"unseen", "02:00:00:00:00:06", ""},
		{"nobody", "", ""},
		{"", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.arg, func(t *testing.T) {
			p, err := findPeer(&s, tt.arg)
			got := ""
			if p != nil {
				got = p.Name
			}
			if got != tt.want || errText(err) != tt.err {
				t.Errorf("findPeer = %q, %v, want %q, %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestFindPeerByAmbiguousAddress(t *testing.T) {
	r := resolveReport()
	self := &r.Mesh.Peers[0]
	self.Connections = append(self.Connections, control.PeerConnection{Name: testName(4), Address: "10.142.130.17:7000"})
	s := newStatus(r, now)
	if _, err := findPeer(&s, "10.142.130.17"); err == nil || !strings.Contains(err.Error(), "is an address of 2 peers: 02:00:00:00:00:02(weave02), 02:00:00:00:00:04(twin)") {
		t.Errorf("findPeer = %v", err)
	}
	if p, err := findPeer(&s, "10.142.130.17:7000"); err != nil || p.Name != "02:00:00:00:00:04" {
		t.Errorf("findPeer with port = %v, %v", p, err)
	}
}

func TestConnectTargets(t *testing.T) {
	s := newStatus(resolveReport(), now)
	tests := []struct {
		args []string
		want []string
		err  string
	}{
		{[]string{"10.0.0.9", "10.0.0.9:7000", "fd00::1", "[fd00::1]:7000", "10.0.0.9"}, []string{"10.0.0.9", "10.0.0.9:7000", "fd00::1", "[fd00::1]:7000"}, ""},
		{[]string{"weave02"}, []string{"10.142.130.17:6783"}, ""},
		{[]string{"02:00:00:00:00:02"}, []string{"10.142.130.17:6783"}, ""},
		// weave03 has only ever dialled: its IP with our control port.
		{[]string{"weave03"}, []string{"10.107.153.153:6783"}, ""},
		{[]string{"other.example.net:7000"}, []string{"other.example.net:7000"}, ""},
		{[]string{"unseen"}, []string{"unseen"}, ""}, // may still be a host name
		{[]string{"weave01"}, nil, "weave01 is this peer itself"},
		{[]string{"02:00:00:00:00:99"}, nil, "no address of a peer 02:00:00:00:00:99 is known here: give one"},
		{[]string{"twin"}, nil, `"twin" is the nickname of 2 peers: 02:00:00:00:00:04, 02:00:00:00:00:05; use a name`},
		{[]string{"a b"}, nil, `"a b" is not host[:port], and no peer has that name or nickname`},
		{[]string{"10.0.0.9:99999"}, nil, `"10.0.0.9:99999" has a bad port "99999", and no peer has that name or nickname`},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			got, err := connectTargets(&s, tt.args)
			if !slices.Equal(got, tt.want) || errText(err) != tt.err {
				t.Errorf("connectTargets = %v, %v, want %v, %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestForgetTargets(t *testing.T) {
	s := newStatus(resolveReport(), now)
	tests := []struct {
		arg  string
		want string
		err  string
	}{
		{"10.142.130.17", "10.142.130.17", ""},
		{"10.142.130.17:6783", "10.142.130.17", ""},
		{"weave02", "10.142.130.17", ""},
		{"02:00:00:00:00:02", "10.142.130.17", ""},
		{"weave03", "weave03.example.net", ""}, // by its IP: it dialled us
		{"10.107.153.153", "weave03.example.net", ""},
		{"[fd00::9]:7000", "[fd00::9]:7000", ""},
		{"fd00::9", "[fd00::9]:7000", ""},
		{"unseen", "", "unseen is not a configured target; there are: 10.142.130.17, weave03.example.net, [fd00::9]:7000"},
		{"10.0.0.1", "", "10.0.0.1 is not a configured target; there are: 10.142.130.17, weave03.example.net, [fd00::9]:7000"},
		{"twin", "", `"twin" is the nickname of 2 peers: 02:00:00:00:00:04, 02:00:00:00:00:05; use a name`},
	}
	for _, tt := range tests {
		t.Run(tt.arg, func(t *testing.T) {
			got, err := forgetTargets(&s, []string{tt.arg})
			if strings.Join(got, " ") != tt.want || errText(err) != tt.err {
				t.Errorf("forgetTargets = %v, %v, want %v, %q", got, err, tt.want, tt.err)
			}
		})
	}
}

// A peer with a session over QUIC is called, connected and forgotten as such.
func TestTargetsOverQUIC(t *testing.T) {
	s := newStatus(quicReport(), now)
	for _, tt := range []struct{ arg, connect, forget, err string }{
		{"weave07", "quic://10.0.0.7:6785", "quic://weave07.example.net", ""},
		{"quic://weave07.example.net", "quic://weave07.example.net", "quic://weave07.example.net", ""},
		{"quic://10.0.0.7", "quic://10.0.0.7", "quic://weave07.example.net", ""},
		{"10.0.0.7:6785", "10.0.0.7:6785", "quic://weave07.example.net", ""},
		{"10.0.0.8", "10.0.0.8", "10.0.0.8", ""},
		{"http://a", "", "", `"http://a" names no carrier: there is tcp:// and quic://, not "http://": write host[:port], tcp://host[:port] or quic://host[:port]`},
		{"quic://a/", "", "", `"quic://a/" has more than a host and a port after quic://: write host[:port], tcp://host[:port] or quic://host[:port]`},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			got, err := connectTargets(&s, []string{tt.arg})
			if strings.Join(got, " ") != tt.connect || errText(err) != tt.err {
				t.Errorf("connectTargets = %v, %v, want %q, %q", got, err, tt.connect, tt.err)
			}
			got, err = forgetTargets(&s, []string{tt.arg})
			if strings.Join(got, " ") != tt.forget || (err == nil) != (tt.forget != "") {
				t.Errorf("forgetTargets = %v, %v, want %q", got, err, tt.forget)
			}
		})
	}
	for _, arg := range []string{"tcp://10.0.0.7", "tcp://10.0.0.8", "quic://10.0.0.8"} { // not what these targets say
		if got, err := forgetTargets(&s, []string{arg}); err == nil {
			t.Errorf("forgetTargets(%s) = %v", arg, got)
		}
	}
	if p, err := findPeer(&s, "quic://10.0.0.7"); err != nil || p == nil || p.NickName != "weave07" {
		t.Errorf("findPeer = %v, %v, want weave07", p, err)
	}
	if p, err := findPeer(&s, "tcp://10.0.0.7"); err != nil || p != nil {
		t.Errorf("findPeer = %v, %v, want none", p, err)
	}
}

// Views say that a session is over QUIC, and nothing more of one over TCP.
func TestSessionOverQUICIsShown(t *testing.T) {
	s := newStatus(quicReport(), now)
	var connections, peers strings.Builder
	if err := errors.Join(printConnections(&connections, &s), printPeers(&peers, &s)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		connections.String(): "-> quic://10.0.0.7:6785  established",
		peers.String():       "<- quic://10.0.0.7:6785  " + testName(7).String() + "(weave07)",
	} {
		if !strings.Contains(text, want) || strings.Count(text, "quic") != 1 {
			t.Errorf("shown:\n%swant %q once", text, want)
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"address":"10.0.0.7:6785","carrier":"quic"`) {
		t.Errorf("the carrier is not in %s", data)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzResolve(f *testing.F) {
	for _, arg := range []string{"", "weave02", "twin", "02:00:00:00:00:02", "2::1", "10.0.0.1", "[fd00::1]:1", "[", ":", "a:b", "host:6783", "\x00", "1.2.3.4:"} {
		f.Add(arg)
	}
	s := newStatus(resolveReport(), now)
	f.Fuzz(func(t *testing.T, arg string) {
		if targets, err := connectTargets(&s, []string{arg}); err == nil && (len(targets) != 1 || targets[0] == "") {
			t.Errorf("connectTargets(%q) = %q", arg, targets)
		}
		if targets, err := forgetTargets(&s, []string{arg}); err == nil {
			if !slices.ContainsFunc(s.Targets, func(x Target) bool { return x.Target == targets[0] }) {
				t.Errorf("forgetTargets(%q) = %q, which is no target", arg, targets)
			}
		}
	})
}
