package expose

import (
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"meshd/internal/lab"
)

// docker starts an engine of its own on the host.
func (w *world) docker() *lab.Process {
	w.t.Helper()
	dir := w.t.TempDir()
	socket := filepath.Join(dir, "s")
	p, err := w.host.Start(lab.Command{Path: "/bin/sh", Log: filepath.Join(dir, "log"),
		Args: []string{"-ec", "mount -t cgroup2 none /sys/fs/cgroup; exec dockerd --data-root " + dir + "/root --exec-root " + dir +
			"/exec --pidfile " + dir + "/pid --host unix://" + socket}})
	w.must(err)
	w.t.Cleanup(func() { p.Stop(patience) })
	w.eventually("Docker listens", func() bool {
		select {
		case <-p.Done():
			w.t.Skipf("no Docker engine runs here: %s", strings.Join(p.Tail(3), "\n"))
		default:
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience)) // it answers when all is set up
		c.Write([]byte("GET /_ping HTTP/1.0\r\n\r\n"))
		answer, _ := io.ReadAll(c)
		return strings.Contains(string(answer), " 200 ")
	})
	w.drop() // as it does itself where it turns forwarding on
	return p
}

func TestDocker(t *testing.T) {
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("needs dockerd")
	}
	works := func(w *world) {
		w.t.Helper()
		w.pings(w.c1, "192.168.99.12")
		w.pings(w.c1, "10.0.0.2")
	}
	t.Run("first", func(t *testing.T) {
		w := build(t, "1")
		w.docker()
		before := w.snapshot()
		e := w.exposer(meshPorts)
		w.set(e, ex99)
		works(w)
		save := w.sh("iptables-save")
		t.Log(save, w.sh("nft list table inet meshd"))
		if strings.Index(save, "-j DOCKER-USER") > strings.Index(save, "--comment meshd") {
			t.Errorf("DOCKER-USER is not the first:\n%s", save)
		}
		w.must(e.Remove())
		w.unchanged(before, "before and after Remove")
	})
	t.Run("later", func(t *testing.T) {
		w := build(t, "1")
		e := w.exposer(meshPorts)
		w.set(e, ex99)
		w.run(e)
		for range 2 {
			p := w.docker()
			w.eventually("the overlay passes Docker's FORWARD", func() bool {
				return strings.Count(w.sh("iptables-save"), "--comment meshd") == 3
			})
			works(w)
			w.must(p.Signal(syscall.SIGTERM))
			<-p.Done()
			works(w)
		}
	})
}

// Docker's containers are reached by the ports that they publish, and by no
// others.
func TestDockerPublishes(t *testing.T) {
	w := build(t, "1")
	w.must(w.host.AddBridge("docker0"))
	w.must(w.host.AddAddress("docker0", prefix("172.17.0.1/16")))
	w.must(lab.Attach(w.behind, w.host, "docker0", prefix("172.17.0.2/16")))
	w.must(w.behind.AddRoute(prefix("0.0.0.0/0"), addr("172.17.0.1"), "ethwe"))
	// What Docker 20.10 writes for -p 8080:80.
	w.sh(`iptables -P FORWARD DROP; iptables -N DOCKER
iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD -o docker0 -j DOCKER
iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to 172.17.0.2:80`)
	e := w.exposer(meshPorts)
	w.set(e, ex99)
	for _, port := range []string{"80", "81"} {
		l, err := w.behind.Listen("tcp", "172.17.0.2:"+port)
		w.must(err)
		defer l.Close()
	}
	w.reaches(w.c1, "192.168.99.1:8080", true)
	w.reaches(w.c1, "172.17.0.2:80", false)
	w.reaches(w.c1, "172.17.0.2:81", false)
	l, err := w.c1.Listen("tcp", "192.168.99.11:90")
	w.must(err)
	defer l.Close()
	w.reaches(w.behind, "192.168.99.11:90", true)
}
