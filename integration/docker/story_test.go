package docker

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// launch starts meshd on a host, and looks at what the user sees.
func (h *host) launch(args ...string) {
	h.t.Helper()
	if id := h.do(append([]string{"mesh", "launch"}, args...)...); !containerID.MatchString(id) {
		h.t.Errorf("mesh launch on %s prints %q, want a container's id", h.name, id)
	}
}

// run starts a container on the mesh.
func (h *host) run(cidr, name string, command ...string) {
	h.t.Helper()
	id := h.do(append([]string{"mesh", "run", cidr, "--name", name, boxImage}, command...)...)
	if !containerID.MatchString(id) {
		h.t.Errorf("mesh run on %s prints %q, want a container's id", h.name, id)
	}
}

// fetch fetches the page from a URL, in a container, or on the host itself where that
// is empty.
func (h *host) fetch(container, url string) error {
	args := []string{"busybox", "wget", "-qO-", url}
	if container != "" {
		args = []string{"docker", "exec", container, "/bin/wget", "-qO-", url}
	}
	out, err := h.try(args...)
	if err == nil && out != page {
		err = fmt.Errorf("%s from %s is %q", url, h.name, out)
	}
	return err
}

func (h *host) fetches(container, url string) {
	h.t.Helper()
	h.eventually("fetches "+url, func() error { return h.fetch(container, url) })
}

func (h *host) pings(container, to string) {
	h.t.Helper()
	h.eventually("pings "+to, func() error {
		_, err := h.try("docker", "exec", container, "/bin/ping", "-c", "1", "-W", "2", to)
		return err
	})
}

const page = "hello from weave01"

// serve is the command of a container that has the page.
func serve() []string {
	return []string{"/bin/sh", "-c", "echo " + page + " >/index.html; exec /bin/httpd -f -p 80 -h /"}
}

// The reference story, from the first launch to the death of the first host.
func TestStory(t *testing.T) {
	c := newCluster(t)
	vlan1, err := c.lab.Switch("vlan1")
	c.must(err)
	vlan2, err := c.lab.Switch("vlan2")
	c.must(err)
	router, err := c.lab.Router("router")
	c.must(err)
	c.must(vlan1.Plug(router, "eth0", netip.MustParsePrefix("10.142.130.1/26")))
	c.must(vlan2.Plug(router, "eth1", netip.MustParsePrefix("10.107.153.129/26")))
	weave01 := c.host("weave01", vlan1, "10.142.130.16/26", "10.142.130.1")
	weave02 := c.host("weave02", vlan1, "10.142.130.17/26", "10.142.130.1")
	weave03 := c.host("weave03", vlan2, "10.107.153.153/26", "10.107.153.129")
	all := []*host{weave01, weave02, weave03}
	c.images(all...)
	before := weave02.rules()

	weave01.launch()
	weave02.launch("10.142.130.16")
	weave03.launch("10.142.130.16")
	for _, h := range all {
		h.eventually("is in a full mesh", func() error {
			if out := h.do("mesh", "status"); !strings.Contains(out, "Peers: 3 (with 6 established connections)") {
				return errors.New(out)
			}
			return nil
		})
	}
	weave01.looksAsWeave()

	weave01.run("192.168.99.10/24", "httpd", serve()...)
	weave01.run("192.168.99.11/24", "client1", "/bin/sleep", "1000")
	weave02.run("192.168.99.21/24", "client2", "/bin/sleep", "1000")
	weave03.run("192.168.99.31/24", "client3", serve()...)
	weave01.insideOf("httpd", "192.168.99.10/24")

	weave01.refuse("container httpd", "mesh", "expose", "192.168.99.10/24")
	weave02.refuse("peer weave01", "mesh", "expose", "192.168.99.10/24")
	for _, h := range all {
		if a, err := netip.ParseAddr(h.do("mesh", "expose", "net:192.168.99.0/24")); err != nil || !netip.MustParsePrefix("192.168.99.0/24").Contains(a) {
			t.Errorf("%s is exposed as %v, %v", h.name, a, err)
		}
	}
	if rules := weave02.do("iptables-save"); !strings.Contains(rules, "-A FORWARD -i weave -o weave -m comment --comment meshd -j ACCEPT") || strings.Contains(rules, "incompatible") {
		t.Errorf("iptables-save on weave02:\n%s", rules)
	}
	for i, h := range all {
		h.pings(fmt.Sprintf("client%d", i+1), "192.168.99.10")
		h.fetches(fmt.Sprintf("client%d", i+1), "http://192.168.99.10/")
		h.fetches("", "http://192.168.99.10/")
	}

	t.Run("publish", func(t *testing.T) {
		weave01.do("mesh", "publish", "80:httpd:80")
		weave02.fetches("", "http://10.142.130.16/")
		weave01.fetches("", "http://127.0.0.1/")
		weave01.fetches("", "http://[::1]/")
		weave03.do("mesh", "publish", "8080:192.168.99.10:80")
		weave01.fetches("", "http://10.107.153.153:8080/")
		weave01.refuse("already", "mesh", "publish", "80:192.168.99.31:80")
	})
	t.Run("restarts", func(t *testing.T) {
		weave01.do("docker", "restart", "-t", "0", "httpd")
		weave02.fetches("client2", "http://192.168.99.10/")
		weave02.fetches("", "http://10.142.130.16/")
		weave01.do("docker", "restart", "-t", "3", "meshd")
		weave02.fetches("", "http://10.142.130.16/")
		weave02.pings("client2", "192.168.99.11")
	})
	t.Run("refused", func(t *testing.T) { refused(weave02) })
	t.Run("death of weave01", func(t *testing.T) {
		c.must(vlan1.Mute(weave01.Namespace, "eth0"))
		weave02.pings("client2", "192.168.99.31")
		weave02.fetches("client2", "http://192.168.99.31/")
	})
	t.Run("reset", func(t *testing.T) {
		weave02.do("mesh", "reset")
		if after := weave02.rules(); after != before {
			t.Errorf("rules after mesh reset\n%s\nand before mesh launch\n%s", after, before)
		}
		for _, link := range strings.Split(weave02.do("ip", "-o", "link"), "\n") {
			if strings.Contains(link, ": weave:") || strings.Contains(link, ": vethwe") || strings.Contains(link, ": meshd") {
				t.Errorf("left behind: %s", link)
			}
		}
	})
}

// rules are those of the firewall, without counters and handles.
func (h *host) rules() string {
	out := h.do("iptables-save") + h.do("nft", "list", "tables")
	return regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`).ReplaceAllString(out, "")
}

// looksAsWeave looks at what weave's users have in their fingers: bridge, ports, and
// that Docker's own bridge is as it was.
func (h *host) looksAsWeave() {
	h.t.Helper()
	bridge := h.do("ip", "-d", "-o", "addr", "show", "dev", "weave")
	link := h.do("ip", "-d", "-o", "link", "show", "dev", "weave")
	if strings.Contains(bridge, "inet ") || !strings.Contains(link, "stp_state 0") || !strings.Contains(link, "UP") {
		h.t.Errorf("bridge of %s: %s %s", h.name, link, bridge)
	}
	if docker0 := h.do("ip", "-o", "addr", "show", "dev", "docker0"); !strings.Contains(docker0, "172.17.0.1/16") {
		h.t.Errorf("docker0 of %s: %s", h.name, docker0)
	}
	if p := h.do("docker", "inspect", "-f", "{{.HostConfig.Privileged}} {{.HostConfig.NetworkMode}} {{.HostConfig.CapDrop}}", "meshd"); p != "false host [ALL]" {
		h.t.Errorf("meshd runs with %s", p)
	}
}

// insideOf looks at what a container has.
func (h *host) insideOf(container, cidr string) {
	h.t.Helper()
	addr := h.do("docker", "exec", container, "/bin/ip", "addr", "show", "dev", "ethwe")
	if !strings.Contains(addr, cidr) || !strings.Contains(addr, "mtu 1376") {
		h.t.Errorf("ethwe of %s: %s", container, addr)
	}
	routes := h.do("docker", "exec", container, "/bin/ip", "route")
	for _, want := range []string{
		"default via 172.17.0.1 dev eth0", "172.17.0.0/16 dev eth0", "192.168.99.0/24 dev ethwe", "224.0.0.0/4 dev ethwe",
	} {
		if !strings.Contains(routes, want) {
			h.t.Errorf("routes of %s lack %q:\n%s", container, want, routes)
		}
	}
	if n := len(strings.Split(routes, "\n")); n != 4 {
		h.t.Errorf("%s has %d routes:\n%s", container, n, routes)
	}
}

// refused is what must not work, and why it says so.
func refused(h *host) {
	h.do("docker", "create", "--name", "stopped", boxImage, "/bin/sleep", "1000")
	h.do("docker", "run", "-d", "--name", "onhost", "--network", "host", boxImage, "/bin/sleep", "1000")
	for _, tt := range []struct{ words, cidr, container string }{
		{"no container is called", "192.168.99.77/24", "nosuch"},
		{"does not run", "192.168.99.77/24", "stopped"},
		{"host's own network", "192.168.99.77/24", "onhost"},
		{"is not an address", "192.168.99.300/24", "client2"},
		{"address of the subnet itself", "192.168.99.0/24", "client2"},
		{"overlaps with the network 10.142.130.0/26 of this host", "10.142.130.5/26", "client2"},
		{"overlaps with the network 172.17.0.0/16", "172.17.0.99/16", "client2"},
		{"is in use by", "192.168.99.10/24", "client2"},
		{"is not the name of a container", "192.168.99.77/24", "two words"},
		{"is not the name of a container", "192.168.99.77/24", `quo"te`},
		{"is not the name of a container", "192.168.99.77/24", "../../etc"},
		{"name", "192.168.99.77/24", strings.Repeat("x", 300)},
	} {
		h.refuse(tt.words, "mesh", "attach", tt.cidr, tt.container)
	}
	h.refuse("is in use by", "mesh", "run", "192.168.99.10/24", "--name", "second", boxImage, "/bin/sleep", "1000")
	if left := h.do("docker", "ps", "-aq", "-f", "name=second"); left != "" {
		h.t.Errorf("mesh run that failed has left the container %s", left)
	}
	if out := h.do("docker", "exec", "client2", "/bin/ip", "addr", "show", "dev", "ethwe"); strings.Count(out, "inet ") != 1 {
		h.t.Errorf("client2 has after what was refused\n%s", out)
	}
}
