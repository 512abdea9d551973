package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	subnet = "192.168.99.0/24"
	httpd  = "192.168.99.10"
	// The same over IPv6.
	subnet6 = "fd00:99::/64"
	httpd6  = "fd00:99::10"
	// page is what the service answers.
	page = "it works"
	// serve is the service: it ends at once when it is told to.
	serve = "echo it works >/www/index.html; trap exit TERM; httpd -f -p [::]:80 -h /www & wait"
)

// The story, in the order in which it was told. Each step needs those before it.
func TestReferenceStory(t *testing.T) {
	w := newWorld(t)
	w.step("Launch", launch)
	w.step("Bridge", bridge)
	w.step("Privileges", privileges)
	w.step("Status", status)
	w.step("Run", runContainers)
	w.step("Inside", inside)
	w.step("Expose", expose)
	w.step("Rules", rules)
	w.step("Reach", func(w *world) { w.reach() })
	w.step("Wire", wire)
	w.step("Publish", publish)
	w.step("BadInput", badInput)
	w.step("NoDocker", noDocker)
	w.step("RestartContainer", restartContainer)
	w.step("RestartMeshd", restartMeshd)
	w.step("RestartDocker", restartDocker)
	w.step("FirstHostDies", firstHostDies)
	w.step("Reset", reset)
	w.step("Compose", compose)
}

// launch starts meshd on all hosts; only the address of weave01 is ever told.
func launch(w *world) {
	w.weave02.do("docker", "run", "--rm", "box", "true") // the engine has rules for its first container
	w.clean = w.weave02.firewall()
	for _, h := range w.hosts {
		h.capture()
	}
	id := w.weave01.doID("mesh", "launch")
	w.must(w.each(w.hosts[1:], func(h *host) error {
		out, err := h.try("mesh", "launch", w.weave01.addr)
		if err == nil && !containerID.MatchString(out) {
			err = fmt.Errorf("mesh launch on %s prints %q, want the container's id only", h.name, out)
		}
		return err
	}))
	if got := w.weave01.do("docker", "inspect", "-f", "{{.Id}}", "meshd"); got != id {
		w.Errorf("the container meshd is %s, mesh launch printed %s", got, id)
	}
	w.eventually("each host is connected with both others", func() error {
		for _, h := range w.hosts {
			if err := h.connected(2); err != nil {
				return err
			}
		}
		return nil
	})
}

// connected is an error unless the host has that many connections, all established.
func (h *host) connected(want int) error {
	out, err := h.try("mesh", "status", "connections")
	if err != nil {
		return err
	}
	if got := strings.Count(out, " established "); got != want {
		return fmt.Errorf("%s has %d of %d connections:\n%s", h.name, got, want, out)
	}
	return nil
}

func bridge(w *world) {
	for _, h := range w.hosts {
		if out := h.do("busybox", "ip", "-o", "link", "show", "weave"); !strings.Contains(out, ",UP") {
			w.Errorf("%s: the bridge weave is not up: %s", h.name, out)
		}
		if out := h.do("busybox", "ip", "-4", "-o", "addr", "show", "weave"); out != "" {
			w.Errorf("%s: the bridge weave has an IPv4 address: %s", h.name, out)
		}
		v, err := h.status()
		w.must(err)
		if out := h.sysfs("weave/address"); out != v.Name || octets(out)[0]&3 != 2 {
			w.Errorf("%s: the bridge weave has the address %s, want the peer's name %s, administered locally", h.name, out, v.Name)
		}
		if out, want := h.sysfs("weave/bridge/bridge_id"), "8000."+strings.ReplaceAll(v.Name, ":", ""); out != want {
			w.Errorf("%s: the bridge weave has the id %s, want %s", h.name, out, want)
		}
		if out := h.sysfs("weave/brif/meshd0/state"); out != "3" {
			w.Errorf("%s: meshd's port of the bridge is in state %s, want 3, forwarding", h.name, out)
		}
		for _, listens := range []string{`tcp .*:6783 .*LISTEN`, `udp .*:6783 `, `udp .*:6785 `} {
			if out := h.do("busybox", "netstat", "-lntu"); !regexp.MustCompile(listens).MatchString(out) {
				w.Errorf("%s: there is no %s among\n%s", h.name, listens, out)
			}
		}
		if out := h.sysfs("weave/bridge/stp_state"); out != "0" {
			w.Errorf("%s: STP of the bridge weave is %s, want 0", h.name, out)
		}
		if out := h.do("busybox", "ip", "-o", "-4", "addr", "show", "docker0"); !strings.Contains(out, "inet 172.17.0.1/16") {
			w.Errorf("%s: docker0 has %q, want 172.17.0.1/16 as Docker made it", h.name, out)
		}
		if out := h.sysfs("docker0/mtu"); out != "1500" {
			w.Errorf("%s: the MTU of docker0 is %s, want 1500 as Docker made it", h.name, out)
		}
	}
}

// sysfs reads of the host's interfaces: the /sys of a machine shows another's.
func (h *host) sysfs(path string) string {
	h.w.Helper()
	return h.sh("mkdir -p /run/sysfs && { mountpoint -q /run/sysfs || mount -t sysfs sysfs /run/sysfs; } && cat /run/sysfs/class/net/" + path)
}

// privileges looks at what Docker gave the container of meshd, and at what the kernel says.
func privileges(w *world) {
	var c struct {
		HostConfig struct {
			Privileged     bool
			ReadonlyRootfs bool
			CapAdd         []string
			CapDrop        []string
		}
		State struct{ Pid int }
	}
	w.must(json.Unmarshal([]byte(w.weave01.do("docker", "inspect", "-f", "{{json .}}", "meshd")), &c))
	for i, name := range c.HostConfig.CapAdd {
		c.HostConfig.CapAdd[i] = strings.TrimPrefix(name, "CAP_")
	}
	slices.Sort(c.HostConfig.CapAdd)
	want := []string{"NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE"}
	if c.HostConfig.Privileged || !c.HostConfig.ReadonlyRootfs || !slices.Equal(c.HostConfig.CapAdd, want) || !slices.Equal(c.HostConfig.CapDrop, []string{"ALL"}) {
		w.Errorf("meshd runs with %+v, want no privileges but %v", c.HostConfig, want)
	}
	// As numbered in linux/capability.h.
	const mask = 1<<10 | 1<<12 | 1<<13 | 1<<19 | 1<<21
	effective := w.weave01.sh(fmt.Sprintf("sed -n 's/^CapEff:[[:space:]]*//p' /proc/%d/status", c.State.Pid))
	if got, err := strconv.ParseUint(effective, 16, 64); err != nil || got != mask {
		w.Errorf("meshd has the capabilities %s, want %016x", effective, mask)
	}
}

// box is mesh run of a container that does this, with that end of its addresses; it tells
// of faults by Error.
func (h *host) box(host, name, command string) {
	h.w.Helper()
	id, err := h.try("mesh", "run", "192.168.99."+host+"/24", "fd00:99::"+host+"/64",
		"--name", name, "--stop-timeout", "1", "box", "sh", "-c", command)
	if err != nil {
		h.w.Error(err)
		return
	}
	if got, err := h.try("docker", "inspect", "-f", "{{.Id}}", name); err != nil || got != id {
		h.w.Errorf("%s: mesh run printed %q, container %s is %q, %v", h.name, id, name, got, err)
	}
}

func runContainers(w *world) {
	const idle = "trap exit TERM; sleep 100000 & wait"
	heard, err := w.weave03.Capture("weave", announces(httpd))
	w.must(err)
	var wg sync.WaitGroup // each looks for its address on the overlay for a second
	wg.Go(func() { w.weave01.box("10", "httpd", serve) })
	wg.Go(func() { w.weave01.box("11", "client1", idle) })
	wg.Go(func() { w.weave02.box("21", "client2", idle) })
	wg.Go(func() { w.weave03.box("31", "client3", serve) })
	wg.Wait()
	if w.Failed() {
		w.FailNow()
	}
	w.eventually("weave03 hears the address of httpd announced", func() error {
		for _, frame := range heard.Frames() {
			if string(frame[6:12]) == string(octets(w.weave01.ethwe("httpd"))) {
				return heard.Close()
			}
		}
		return fmt.Errorf("heard %x", heard.Frames())
	})
	if out := w.weave01.do("mesh", "ps"); strings.Count(out, "\n") != 1 || !strings.Contains(out, httpd+"/24") || !strings.Contains(out, "192.168.99.11/24") {
		w.Errorf("mesh ps prints\n%s\nwant a line for httpd and one for client1", out)
	}
}

// announces matches ARP announcements of an address: it is the sender's and the target.
func announces(addr string) func(frame []byte) bool {
	ip := netip.MustParseAddr(addr).AsSlice()
	return func(f []byte) bool {
		return len(f) >= 42 && f[12] == 0x08 && f[13] == 0x06 && bytes.Equal(f[28:32], ip) && bytes.Equal(f[38:42], ip)
	}
}

func inside(w *world) {
	h := w.weave01
	links := h.do("docker", "exec", "httpd", "ip", "-o", "addr")
	var v4 []string
	for line := range strings.Lines(links) {
		if f := strings.Fields(line); f[2] == "inet" {
			v4 = append(v4, f[1]+" "+f[3])
		}
	}
	slices.Sort(v4)
	if len(v4) != 3 || !strings.HasPrefix(v4[0], "eth0 172.17.0.") || v4[1] != "ethwe "+httpd+"/24" {
		w.Fatalf("httpd has the addresses %q, want those of lo and eth0, and ethwe %s/24", v4, httpd)
	}
	if got := strings.Count(links, " "+httpd6+"/64 "); got != 1 {
		w.Errorf("httpd has the address %s/64 %d times:\n%s", httpd6, got, links)
	}
	if got := h.do("docker", "exec", "httpd", "cat", "/sys/class/net/eth0/mtu"); got != "1500" {
		w.Errorf("the MTU of eth0 is %s, want 1500 as Docker made it", got)
	}
	if got := h.ethwe("httpd"); octets(got)[0]&3 != 2 {
		w.Errorf("ethwe has the address %s, want one that is administered locally", got)
	}
	for file, want := range map[string]string{"base_reachable_time_ms": "5000", "delay_first_probe_time": "2", "ucast_solicit": "1"} {
		if got := h.do("docker", "exec", "httpd", "cat", "/proc/sys/net/ipv4/neigh/ethwe/"+file); got != want {
			w.Errorf("%s of ethwe is %s, want %s", file, got, want)
		}
	}
	eth0 := strings.TrimSuffix(strings.TrimPrefix(v4[0], "eth0 "), "/16")
	if got, want := h.do("docker", "exec", "httpd", "cat", "/sys/class/net/ethwe/mtu"), h.sysfs("weave/mtu"); got != want {
		w.Errorf("the MTU of ethwe is %s, that of the bridge is %s", got, want)
	} else if got != "1376" {
		w.Errorf("the MTU of ethwe is %s, want 1376, which fits every path", got)
	}
	if got := h.do("docker", "exec", "httpd", "cat", "/proc/sys/net/ipv6/conf/ethwe/accept_ra"); got != "0" {
		w.Errorf("accept_ra of ethwe is %s: whoever is on the overlay may be a router for the container", got)
	}
	var got []string
	for line := range strings.Lines(h.do("docker", "exec", "httpd", "ip", "route")) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"172.17.0.0/16 dev eth0 scope link src " + eth0,
		"192.168.99.0/24 dev ethwe scope link src " + httpd,
		"224.0.0.0/4 dev ethwe scope link",
		"default via 172.17.0.1 dev eth0",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.Errorf("the routes in httpd are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func expose(w *world) {
	mac := w.weave01.do("docker", "exec", "httpd", "cat", "/sys/class/net/ethwe/address")
	w.weave01.refuse([]string{"mesh", "expose", httpd + "/24"}, httpd, "httpd", "choose another address")
	w.weave02.refuse([]string{"mesh", "expose", httpd + "/24"}, httpd, mac, "weave01", "choose another address")

	w.weave01.refuse([]string{"mesh", "expose", httpd6 + "/64"}, httpd6, "httpd", "choose another address")
	w.weave03.refuse([]string{"mesh", "expose", httpd6 + "/64"}, httpd6, mac, "weave01", "choose another address")

	for range 2 { // the second time nothing changes
		if out := w.weave01.do("mesh", "expose", "192.168.99.1/24", "fd00:99::1/64"); out != "192.168.99.1 fd00:99::1" {
			w.Errorf("mesh expose 192.168.99.1/24 fd00:99::1/64 prints %q", out)
		}
	}
	if out := w.weave01.do("busybox", "ip", "route", "show", "dev", "weave"); strings.Join(strings.Fields(out), " ") != subnet+" dev weave scope link src 192.168.99.1" {
		w.Errorf("weave01 has the routes %q by the bridge, want one to %s", out, subnet)
	}
	used := map[string]bool{}
	for _, host := range []string{"1", "10", "11", "21", "31"} {
		used["192.168.99."+host], used["fd00:99::"+host] = true, true
	}
	for _, h := range w.hosts[1:] {
		out := h.do("mesh", "expose", "net:"+subnet, "net:"+subnet6)
		fields := strings.Fields(out)
		if len(fields) != 2 {
			w.Fatalf("%s: mesh expose net:%s net:%s prints %q, want a free address of each", h.name, subnet, subnet6, out)
		}
		have := h.do("busybox", "ip", "-o", "addr", "show", "weave")
		for i, p := range []string{subnet, subnet6} {
			of := netip.MustParsePrefix(p)
			a, err := netip.ParseAddr(fields[i])
			if err != nil || !of.Contains(a) || used[fields[i]] {
				w.Errorf("%s: mesh expose net:%s prints %q, want a free address of it", h.name, p, fields[i])
			}
			used[fields[i]] = true
			if want := netip.PrefixFrom(a, of.Bits()); !strings.Contains(have, " "+want.String()+" ") {
				w.Errorf("%s: the bridge has %q, want the exposed address %v", h.name, have, want)
			}
		}
	}
}

const ourRule = "-A FORWARD -i weave -o weave -m comment --comment meshd -j ACCEPT"

func rules(w *world) {
	for _, h := range w.hosts {
		// An engine that writes nftables itself has no chain FORWARD that drops, and needs
		// none of our rules there.
		if _, err := h.try("nft", "list", "table", "ip", "docker-bridges"); err != nil {
			save := h.do("iptables-save")
			if !strings.Contains(save, ourRule+"\n") {
				w.Errorf("%s: iptables-save has no rule %q:\n%s", h.name, ourRule, save)
			}
			if !strings.Contains(save, "-A FORWARD -j DOCKER-USER\n") {
				w.Errorf("%s: Docker's rules have gone:\n%s", h.name, save)
			}
		}
		table := h.do("nft", "list", "table", "inet", "meshd")
		for _, rule := range []string{
			"ip daddr " + subnet + " ip saddr != " + subnet, "ip saddr " + subnet + " oifname != \"weave\"",
			"ip6 daddr " + subnet6 + " ip6 saddr != " + subnet6, "ip6 saddr " + subnet6 + " oifname != \"weave\"",
		} {
			if got := len(regexp.MustCompile(`(?m)`+rule+` .*masquerade$`).FindAllString(table, -1)); got != 1 {
				w.Errorf("%s: %d rules masquerade %s, want one:\n%s", h.name, got, rule, table)
			}
		}
	}
}

// reach is the story's matrix: from each host and from a container of each, over IPv4 and
// IPv6.
func (w *world) reach() {
	w.Helper()
	for i, h := range w.hosts {
		client := []string{"docker", "exec", fmt.Sprintf("client%d", i+1)}
		w.must(h.pings(nil, httpd))
		w.must(h.pings(client, httpd))
		w.must(h.fetches(nil, httpd))
		w.must(h.fetches(client, httpd))
		w.must(h.pings(nil, httpd6))
		w.must(h.pings(client, httpd6))
		w.must(h.fetches(nil, "["+httpd6+"]"))
		w.must(h.fetches(client, "["+httpd6+"]"))
	}
}

// pings is an error unless an address answers; by is what comes before the command.
func (h *host) pings(by []string, addr string) error {
	if by == nil {
		by = []string{"busybox"}
	}
	_, err := h.try(append(by, "ping", "-c", "1", "-W", "2", addr)...)
	return err
}

// fetches is an error unless the service answers at host[:port]. On a host itself there
// may be no program for it, and a static busybox cannot look names up there.
func (h *host) fetches(by []string, at string) error {
	url := "http://" + at + "/"
	ctx, cancel := context.WithTimeout(h.w.Context(), 5*time.Second)
	defer cancel()
	var out string
	var err error
	if by == nil {
		out, err = h.Get(ctx, url)
	} else {
		out, err = h.run(ctx, append(by, "wget", "-q", "-O", "-", url)...)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", h.name, url, err)
	}
	if strings.TrimSpace(out) != page {
		return fmt.Errorf("%s: %s is %q, want %q", h.name, url, out, page)
	}
	return nil
}

func publish(w *world) {
	w.weave01.do("mesh", "publish", "[fd00:99::1]:8081:["+httpd6+"]:80")
	w.weave03.do("mesh", "publish", "[::]:8082:["+httpd6+"]:80")
	w.weave01.do("mesh", "publish", "80:httpd:80")
	w.weave03.do("mesh", "publish", "8080:"+httpd+":80")
	w.published()
}

// published fetches the service by the published ports, once each of them works.
func (w *world) published() {
	w.Helper()
	for _, at := range []struct {
		from *host
		url  string
	}{
		{w.weave02, w.weave01.addr}, {w.weave03, w.weave01.addr}, {w.weave01, w.weave01.addr},
		{w.weave01, "127.0.0.1"}, {w.weave01, "[::1]"},
		{w.weave02, "[fd00:99::1]:8081"}, {w.weave01, "[fd00:99::1]:8081"}, {w.weave03, "[::1]:8082"},
		{w.weave01, w.weave03.addr + ":8080"}, {w.weave03, "127.0.0.1:8080"},
	} {
		w.eventually(fmt.Sprintf("%s reaches http://%s/", at.from.name, at.url), func() error {
			return at.from.fetches(nil, at.url)
		})
	}
}

// attachedAgain waits until httpd has its interface and the ports lead to it.
func (w *world) attachedAgain() {
	w.Helper()
	w.eventually("httpd is attached again", func() error {
		out, err := w.weave01.try("docker", "exec", "httpd", "ip", "-o", "-4", "addr", "show", "ethwe")
		if err == nil && !strings.Contains(out, httpd+"/24") {
			err = fmt.Errorf("ethwe has %q", out)
		}
		return err
	})
	w.eventually("client3 reaches httpd", func() error {
		return w.weave03.fetches([]string{"docker", "exec", "client3"}, httpd)
	})
	w.published()
}

func restartContainer(w *world) {
	w.weave01.do("docker", "restart", "httpd")
	w.attachedAgain()
}

func restartMeshd(w *world) {
	was, err := w.weave01.status()
	w.must(err)
	before := w.weave01.do("docker", "exec", "httpd", "cat", "/sys/class/net/ethwe/ifindex")
	w.weave01.do("docker", "restart", "meshd")
	if after := w.weave01.do("docker", "exec", "httpd", "cat", "/sys/class/net/ethwe/ifindex"); after != before {
		w.Errorf("ethwe of httpd is interface %s, and was %s before meshd was restarted", after, before)
	}
	w.eventually("client2 reaches httpd", func() error {
		return w.weave02.pings([]string{"docker", "exec", "client2"}, httpd)
	})
	w.attachedAgain()
	w.reach()
	if after, err := w.weave01.status(); err != nil || after.Name != was.Name {
		w.Errorf("weave01 is called %s, and was %s before meshd was restarted (%v)", after.Name, was.Name, err)
	}
}

func restartDocker(w *world) {
	h := w.weave01
	w.must(h.stopEngine())
	w.must(h.startEngine())
	h.do("docker", "start", "httpd", "client1")
	w.attachedAgain()
	w.eventually("client1 is attached again", func() error {
		return h.pings([]string{"docker", "exec", "client1"}, httpd)
	})
	w.reach()
	rules(w)
}

// firstHostDies cuts weave01 off, which was the only one that anybody was told of.
func firstHostDies(w *world) {
	w.must(w.lan1.Mute(w.weave01.Namespace, "eth0"))
	client2, client3 := []string{"docker", "exec", "client2"}, []string{"docker", "exec", "client3"}
	check := func() {
		w.Helper()
		w.must(w.weave02.pings(client2, "192.168.99.31"))
		w.must(w.weave03.pings(client3, "192.168.99.21"))
		w.must(w.weave02.fetches(client2, "192.168.99.31"))
	}
	check()
	for _, h := range w.hosts[1:] {
		w.eventually(h.name+" has noticed", func() error { return h.connected(1) })
	}
	check()
	if err := w.weave02.pings(client2, httpd); err == nil {
		w.Error("httpd answers on a host that is dead")
	}
}

func reset(w *world) {
	h := w.weave02
	h.do("mesh", "reset")
	links := h.do("busybox", "ip", "-o", "addr")
	for _, ours := range []string{"weave", "192.168.99."} {
		if strings.Contains(links, ours) {
			w.Errorf("after mesh reset there is %q left:\n%s", ours, links)
		}
	}
	if out := h.do("docker", "exec", "client2", "ip", "-o", "link"); strings.Contains(out, "ethwe") {
		w.Errorf("after mesh reset client2 has\n%s", out)
	}
	h.isClean()
	if out := h.do("docker", "ps", "-a", "--format", "{{.Names}}"); out != "client2" {
		w.Errorf("after mesh reset there are the containers %q, want client2", out)
	}
	if out := h.do("ls", "/var/lib/meshd"); strings.Contains(out, "attachments") {
		w.Errorf("after mesh reset /var/lib/meshd has %q", out)
	}
	if out := h.do("busybox", "ip", "-o", "-4", "addr", "show", "docker0"); !strings.Contains(out, "inet 172.17.0.1/16") {
		w.Errorf("after mesh reset docker0 has %q", out)
	}
}

// compose launches meshd on weave02 once more, by the example for Docker Compose: mesh
// takes it for its own.
func compose(w *world) {
	h := w.weave02
	file, err := os.ReadFile("../../packaging/compose.yaml")
	w.must(err)
	path := filepath.Join(suite.dir, "compose.yaml")
	w.must(os.WriteFile(path, file, 0o644))
	up := "docker compose"
	if _, err := h.try("docker", "compose", "version"); err != nil {
		if _, err := h.try("docker-compose", "version"); err != nil {
			w.Skip("there is neither docker compose nor docker-compose")
		}
		up = "docker-compose"
	}
	h.do("docker", "start", "client2")
	h.do("mount", "--make-shared", "/run") // as systemd does
	h.sh("MESH_PEERS=" + w.weave03.addr + " " + up + " -f " + path + " up -d")
	w.eventually("weave02 is connected", func() error { return h.connected(1) })
	h.do("mesh", "attach", "192.168.99.21/24", "client2")
	w.must(h.pings([]string{"docker", "exec", "client2"}, "192.168.99.31"))
	h.refuse([]string{"mesh", "launch"}, "already running", "mesh stop")
	h.do("mesh", "reset")
	h.isClean()
}

// isClean compares the firewall with what it was before anything was launched. The engine
// has rules for containers that run.
func (h *host) isClean() {
	h.w.Helper()
	h.do("docker", "stop", "client2")
	if after := h.firewall(); after != h.w.clean {
		h.w.Errorf("after mesh reset the firewall has\n%s\nand had before mesh launch\n%s", after, h.w.clean)
	}
}

// firewall is all rules of the host, without what counts or changes by itself.
func (h *host) firewall() string {
	h.w.Helper()
	out := h.do("iptables-save") + "\n" + h.do("nft", "list", "ruleset")
	return regexp.MustCompile(`(?m)^#.*$|\[\d+:\d+\]|counter packets \d+ bytes \d+`).ReplaceAllString(out, "")
}
