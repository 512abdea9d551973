package expose

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meshd/internal/lab"
)

// firewalld is a firewalld of its own on the host, with a bus of its own. Its machine
// has no settings but those that come with it.
type firewalld struct {
	w *world
	m *lab.Machine
	p *lab.Process
}

// A bus for root alone: who may do what is not what the tests are about.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>`

// firewalld starts it with nftables or iptables behind it.
func (w *world) firewalld(backend string) *firewalld {
	w.t.Helper()
	for _, program := range []string{"firewalld", "firewall-cmd", "dbus-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			w.t.Skipf("needs %s", program)
		}
	}
	if _, err := os.Stat("/etc/firewalld"); err != nil {
		w.t.Skip(err)
	}
	m, err := w.host.Machine("firewalld")
	w.must(err)
	f := &firewalld{w: w, m: m}
	bus := filepath.Join(w.t.TempDir(), "bus.conf")
	w.must(os.WriteFile(bus, []byte(busConfig), 0o644))
	f.sh("mkdir /run/dbus; mount -t tmpfs tmpfs /etc/firewalld; echo FirewallBackend=" + backend + " >/etc/firewalld/firewalld.conf")
	d, err := m.Start(lab.Command{Path: "/usr/bin/env", Args: []string{"dbus-daemon", "--config-file=" + bus, "--nofork", "--nopidfile"}, Log: bus + ".log"})
	w.must(err)
	w.t.Cleanup(func() { d.Stop(patience) })
	w.eventually("the bus is there", func() bool {
		_, err := m.Run(w.t.Context(), "test", "-S", "/run/dbus/system_bus_socket")
		return err == nil
	})
	f.start()
	return f
}

func (f *firewalld) start() {
	f.w.t.Helper()
	log := filepath.Join(f.w.t.TempDir(), "firewalld.log")
	p, err := f.m.Start(lab.Command{Path: "/usr/bin/env", Args: []string{"firewalld", "--nofork", "--nopid"}, Log: log})
	f.w.must(err)
	f.p = p
	f.w.t.Cleanup(func() { p.Stop(patience) })
	f.w.eventually("firewalld runs", func() bool {
		select {
		case <-p.Done():
			f.w.t.Skipf("no firewalld runs here: %s", strings.Join(p.Tail(3), "\n"))
		default:
		}
		_, err := f.m.Run(f.w.t.Context(), "firewall-cmd", "--state")
		return err == nil
	})
}

// sh runs shell commands that must succeed.
func (f *firewalld) sh(script string) {
	f.w.t.Helper()
	if _, err := f.m.Run(f.w.t.Context(), "sh", "-ec", script); err != nil {
		f.w.t.Fatal(err)
	}
}

// With nftables firewalld has a table of its own, which rejects what crosses the bridge
// until it is told to trust it: Problems says how. Our rules are as they were after each
// reload.
func TestFirewalldNftables(t *testing.T) {
	w := build(t, "1")
	w.drop() // as beside Docker
	e := w.exposer(meshPorts)
	w.set(e, ex99, ex996)
	w.run(e)
	ours := func() string {
		return noise.ReplaceAllString(w.sh("nft list table inet meshd; nft list table netdev meshd; iptables-save; ip6tables-save"), "")
	}
	before := ours()
	f := w.firewalld("nftables")
	w.silent(w.c1, "192.168.99.12")
	var problems []string
	w.eventually("the only problem is what firewalld does", func() bool {
		problems = e.Problems()
		return len(problems) == 1 && strings.Contains(problems[0], "firewalld rejects")
	})
	_, remedy, _ := strings.Cut(problems[0], ": ")
	for _, what := range []string{remedy, "firewall-cmd --reload", "firewall-cmd --complete-reload"} {
		f.sh(what)
		w.eventually("no problem after "+what, func() bool { return len(e.Problems()) == 0 })
		w.passes()
		if after := ours(); after != before {
			t.Errorf("%s changed our rules: %s", what, difference(before, after))
		}
	}
}

// With iptables firewalld flushes all rules when it starts and when it reloads: ours come
// back, and before its own, so that what crosses the bridge passes without being asked for.
func TestFirewalldIptables(t *testing.T) {
	w := build(t, "1")
	e := w.exposer(meshPorts)
	w.set(e, ex99, ex996)
	w.run(e)
	f := w.firewalld("iptables")
	back := func() {
		t.Helper()
		w.eventually("our rules are back", func() bool {
			return strings.Count(w.sh("iptables-save; ip6tables-save"), "--comment meshd") == 6
		})
		w.contains(w.sh("iptables-save"), "-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n") // firewalld's
		w.eventually("no problem", func() bool { return len(e.Problems()) == 0 })
		w.passes()
	}
	back()
	for _, option := range []string{"--reload", "--complete-reload"} {
		f.sh("firewall-cmd " + option)
		back()
	}
}

// passes is what firewalld would reject: across the bridge, and through the host.
func (w *world) passes() {
	w.t.Helper()
	w.pings(w.c1, "192.168.99.12")
	w.pings(w.c1, "fd00:99::c")
	w.pings(w.c1, "10.0.0.2")
	w.pings(w.c1, "fd00:1::2")
}
