package main

import (
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
