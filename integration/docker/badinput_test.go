package docker

import (
	"strings"
)

// badInput is what people mistype: it is refused in one sentence, and nothing changes.
func badInput(w *world) {
	h := w.weave01
	h.do("docker", "run", "-d", "--name", "plain", "--stop-timeout", "1", "box", "sh", "-c", serve)
	h.do("docker", "create", "--name", "stopped", "box", "sh")
	h.do("docker", "run", "-d", "--name", "hostnet", "--stop-timeout", "1", "--network", "host", "box", "sleep", "100000")
	before := h.state()
	for _, tt := range []struct {
		args  []string // of mesh
		words []string
	}{
		{[]string{"attach", "192.168.99.50/24", "nobody"}, []string{"nobody", "docker ps -a"}},
		{[]string{"attach", "192.168.99.50/24", "stopped"}, []string{"stopped", "does not run", "start it first"}},
		{[]string{"attach", "192.168.99.50/24", "hostnet"}, []string{"hostnet", "host's own network", "mesh expose"}},
		{[]string{"attach", "192.168.99.50", "plain"}, []string{"192.168.99.50", "/24"}},
		{[]string{"attach", "192.168.99.500/24", "plain"}, []string{"192.168.99.500/24", "not an address"}},
		{[]string{"attach", "192.168.99.50/33", "plain"}, []string{"192.168.99.50/33", "not an address"}},
		{[]string{"attach", "192.168.99.0/24", "plain"}, []string{"subnet itself"}},
		{[]string{"attach", "192.168.99.255/24", "plain"}, []string{"broadcast"}},
		{[]string{"attach", "10.142.130.5/26", "plain"}, []string{"10.142.130.0/26", "eth0", "choose a subnet"}},
		{[]string{"attach", "172.17.0.77/16", "plain"}, []string{"172.17.0.0/16", "choose a subnet"}},
		{[]string{"expose", "10.142.130.5/26"}, []string{"10.142.130.0/26", "eth0", "choose a subnet"}},
		{[]string{"attach", httpd + "/24", "plain"}, []string{httpd, "httpd", "choose another"}},
		{[]string{"attach", "192.168.99.21/24", "plain"}, []string{"192.168.99.21", "weave02", "choose another"}},
		{[]string{"attach", "192.168.99.1/24", "plain"}, []string{"192.168.99.1", "choose another"}},
		{[]string{"attach", httpd6 + "/64", "plain"}, []string{httpd6, "httpd", "choose another"}},
		{[]string{"attach", "fd00:99::21/64", "plain"}, []string{"fd00:99::21", "weave02", "choose another"}},
		{[]string{"attach", "fd00:99::50", "plain"}, []string{"fd00:99::50", "/64"}},
		{[]string{"attach", "fe80::1/64", "plain"}, []string{"fe80::1 ", "private network"}},
		{[]string{"attach", "192.168.99.50/24", "--", "-x"}, []string{"-x"}},
		{[]string{"attach", "192.168.99.50/24", "-x"}, []string{"-x"}},
		{[]string{"attach", "192.168.99.50/24", "a b"}, []string{"a b", "not the name"}},
		{[]string{"attach", "192.168.99.50/24", `a"b'c`}, []string{"not the name"}},
		{[]string{"attach", "192.168.99.50/24", "$(reboot);`reboot`"}, []string{"not the name"}},
		{[]string{"attach", "192.168.99.50/24", "../../etc"}, []string{"../../etc"}},
		{[]string{"attach", "192.168.99.50/24", "a\nb"}, []string{"not the name"}},
		{[]string{"attach", "192.168.99.50/24", strings.Repeat("n", 300)}, []string{"not the name"}},
		{[]string{"attach", "192.168.99.50/24", ""}, []string{"not the name"}},
		{[]string{"detach", "plain"}, []string{"plain", "not on the overlay"}},
		{[]string{"detach", "192.168.99.50/24", "httpd"}, []string{"httpd", "192.168.99.50/24"}},
		{[]string{"run", "192.168.99.21/24", "--name", "twin", "box", "sleep", "100000"}, []string{"192.168.99.21", "weave02", "removed again"}},
		{[]string{"run", "192.168.99.500/24", "--name", "twin", "box", "sleep", "100000"}, []string{"192.168.99.500/24"}},
		{[]string{"hide", "192.168.99.77/24"}, []string{"192.168.99.77", "not exposed"}},
		{[]string{"publish", "80:192.168.99.21:80"}, []string{"80", "unpublish"}},
		{[]string{"publish", "6783:httpd:80"}, []string{"6783", "taken"}},
		{[]string{"publish", "81:nobody:80"}, []string{"nobody", "attach it first"}},
		{[]string{"publish", "80"}, []string{"80"}},
		{[]string{"publish", "83:" + httpd6 + ":80"}, []string{"83:" + httpd6 + ":80", "[fd00"}},
		{[]string{"publish", "99999:httpd:80"}, []string{"99999"}},
		{[]string{"unpublish", "82"}, []string{"82", "not published"}},
		{[]string{"atach"}, []string{"atach"}},
		{[]string{"launch"}, []string{"already running", "mesh stop"}},
	} {
		h.refuse(append([]string{"mesh"}, tt.args...), tt.words...)
	}
	if after := h.state(); after != before {
		w.Errorf("after all the bad input there is\n%s\nand was before\n%s", after, before)
	}
	h.do("docker", "rm", "-f", "plain", "stopped", "hostnet")
}

// state is what bad input must not change.
func (h *host) state() string {
	h.w.Helper()
	return h.sh(`mesh ps; mesh publish | cut -c1-30; docker ps -a --format '{{.Names}}' | sort
busybox ip -o addr | cut -d' ' -f2-9; ls /var/lib/meshd /var/lib/meshd/attachments | sort
docker exec plain ip -o addr | cut -d' ' -f2-9; iptables-save | grep meshd | sed 's/\[.*\]//'`)
}

// noDocker has the engine of weave03 end, with the daemon of it as a process: attach
// says what is missing, and what needs no engine works.
func noDocker(w *world) {
	h := w.weave03
	h.do("docker", "stop", "meshd")
	w.must(h.stopEngine())
	h.refuse([]string{"mesh", "attach", "192.168.99.50/24", "client3"}, "Docker daemon")
	// Docker's own line says why, ours what to do.
	h.refuse([]string{"sh", "-c", "mesh launch 2>&1 >/dev/null | grep -v ^Cannot >&2; exit 1"}, "Docker does not answer", "MESH_NO_CONTAINER=1")
	process := []string{"env", "MESH_NO_CONTAINER=1", "MESH_BINARY=" + suite.binary, "mesh"}
	h.do(append(process, "launch", w.weave01.addr)...)
	h.refuse(append(process, "attach", "192.168.99.50/24", "client3"), "client3", "no container engine", "start it")
	w.eventually("the host itself reaches httpd", func() error { return h.pings(nil, httpd) })
	h.do(append(process, "stop")...)
	w.must(h.startEngine())
	h.do("docker", "start", "meshd", "client3")
	w.eventually("client3 is attached again", func() error {
		return h.pings([]string{"docker", "exec", "client3"}, httpd)
	})
	w.eventually("weave03 is connected again", func() error { return h.connected(2) })
}
