package portmap

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"meshd/internal/lab"
	"meshd/nat/portmap/portmaptest"
)

// hostEnv makes the test binary play the host in its namespace: hostOptions as
// JSON. It prints a status per line, looks again on SIGHUP and ends on SIGTERM.
const hostEnv = "MESHD_PORTMAP_HOST"

const labPrefix = "meshd-portmap-"

type hostOptions struct {
	Lifetime, Check time.Duration
	Overlay         netip.Prefix
}

// status is what the host prints when it changes.
type status struct {
	Mapping Mapping
	Why     string
	Told    []Mapping     // what peers were told, in order
	Ended   bool          // Run is back
	Took    time.Duration // from SIGTERM on
}

func TestMain(m *testing.M) {
	if text := os.Getenv(hostEnv); text != "" {
		if err := playHost(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Geteuid() == 0 {
		lab.Sweep(labPrefix) // what an earlier run left when it was killed
	}
	os.Exit(m.Run())
}

func playHost(text string) error {
	var o hostOptions
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	told := make(chan Mapping, 100)
	m := New(Config{
		Lifetime: o.Lifetime,
		Refuse: func(a netip.Addr) string {
			if o.Overlay.IsValid() && o.Overlay.Contains(a) {
				return "it lies on the overlay"
			}
			return ""
		},
		Changed: func(m Mapping) { told <- m },
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if o.Check > 0 {
		m.times.check, m.times.leastLease = o.Check, time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	var s status
	var since time.Time
	unsaid := false // peers were told of what is not yet printed
	out := json.NewEncoder(os.Stdout)
	for tick := time.Tick(5 * time.Millisecond); ; {
		select {
		case got := <-signals:
			if got == syscall.SIGHUP {
				m.Again()
				continue
			}
			since = time.Now()
			cancel()
		case err := <-done:
			s.Ended, s.Took = true, time.Since(since)
			return errors.Join(err, out.Encode(s))
		case t := <-told:
			s.Told = append(s.Told, t)
			unsaid = true
		case <-tick:
			mapping, why := m.Current()
			if mapping == s.Mapping && why == s.Why && !unsaid {
				continue
			}
			s.Mapping, s.Why, unsaid = mapping, why, false
			if err := out.Encode(s); err != nil {
				return err
			}
		}
	}
}

// network is a home:
//
//	third 198.51.100.9 ──────────── gw ── lan ─┬─ host 192.168.7.2, on the overlay:
//	                   198.51.100.1    .1      │       bridge weave 10.32.0.1/12 ── c1
//	                                           └─ stranger 192.168.7.66
type network struct {
	lab                       *lab.Lab
	host, gw, third, stranger *lab.Namespace
	overlay                   *lab.Namespace // c1
	table                     *portmaptest.Table
	pmp                       *portmaptest.NATPMP
	igd                       *portmaptest.IGD
	hosts                     int // started
}

const (
	lanHost     = "192.168.7.2"
	lanGateway  = "192.168.7.1"
	lanStranger = "192.168.7.66"
	thirdParty  = "198.51.100.9"
)

func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	h := fnv.New32a()
	h.Write([]byte(t.Name()))
	l, err := lab.New(fmt.Sprintf("%s%d-%08x", labPrefix, os.Getpid(), h.Sum32()))
	must(t, err)
	t.Cleanup(func() {
		must(t, l.Close())
		if left := l.Leftovers(); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newNetwork makes it, and lets the test run beside others: they mostly wait.
func newNetwork(t *testing.T) *network {
	t.Helper()
	t.Parallel()
	l := newLab(t)
	w := &network{lab: l, table: new(portmaptest.Table)}
	var err error
	for name, n := range map[string]**lab.Namespace{
		"host": &w.host, "third": &w.third, "stranger": &w.stranger, "c1": &w.overlay,
	} {
		*n, err = l.Namespace(name)
		must(t, err)
	}
	w.gw, err = l.Router("gw")
	must(t, err)
	lan, err := l.Switch("lan")
	must(t, err)
	p := netip.MustParsePrefix
	must(t, lan.Plug(w.gw, "lan0", p(lanGateway+"/24")))
	must(t, lan.Plug(w.host, "eth0", p(lanHost+"/24")))
	must(t, lan.Plug(w.stranger, "eth0", p(lanStranger+"/24")))
	must(t, lab.Connect(w.gw, "wan0", w.third, "eth0"))
	must(t, w.gw.AddAddress("wan0", p("198.51.100.1/24")))
	must(t, w.third.AddAddress("eth0", p(thirdParty+"/24")))
	for _, n := range []*lab.Namespace{w.host, w.stranger} {
		must(t, n.AddRoute(p("0.0.0.0/0"), netip.MustParseAddr(lanGateway), "eth0"))
	}
	must(t, w.third.AddRoute(p("0.0.0.0/0"), netip.MustParseAddr("198.51.100.1"), "eth0"))
	must(t, w.host.AddBridge("weave"))
	must(t, lab.Attach(w.overlay, w.host, "weave", p("10.32.0.2/12")))
	must(t, w.host.AddAddress("weave", p("10.32.0.1/12")))
	return w
}

// speakNATPMP starts a NAT-PMP server on the gateway.
func (w *network) speakNATPMP(t *testing.T) {
	t.Helper()
	w.pmp = portmaptest.NewNATPMP(w.table, portmaptest.NATPMPSettings{External: externalAddr})
	c, err := w.gw.ListenPacket("udp4", lanGateway+":5351")
	must(t, err)
	serve(t, c, w.pmp.Serve)
}

// speakUPnP starts a UPnP server on the gateway, found by multicast only.
func (w *network) speakUPnP(t *testing.T) {
	t.Helper()
	w.igd = w.device(t, w.gw, "lan0", lanGateway)
}

// device starts a UPnP gateway device anywhere.
func (w *network) device(t *testing.T, n *lab.Namespace, link, addr string) *portmaptest.IGD {
	t.Helper()
	l, err := n.Listen("tcp4", addr+":0")
	must(t, err)
	igd := portmaptest.NewIGD(w.table, portmaptest.IGDSettings{
		External: external, Locations: []string{"http://" + l.Addr().String() + portmaptest.DescriptionPath},
	})
	s := &http.Server{Handler: igd}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	c, err := n.ListenMulticast("udp4", link, "239.255.255.250:1900")
	must(t, err)
	serve(t, c, igd.ServeSSDP)
	return igd
}

// mapped waits until the gateway has this mapping, and no other.
func (w *network) mapped(t *testing.T, port uint16) portmaptest.Entry {
	t.Helper()
	var e portmaptest.Entry
	wait(t, func() error {
		all := w.table.All()
		e = all[port]
		if len(all) != 1 || e.To != netip.MustParseAddrPort(lanHost+":6785") {
			return fmt.Errorf("mappings: %v", all)
		}
		return nil
	})
	return e
}

func (w *network) empty(t *testing.T) {
	t.Helper()
	if all := w.table.All(); len(all) > 0 {
		t.Errorf("mappings left: %v", all)
	}
}

// host is a Mapper that runs in the host's namespace.
type host struct {
	*lab.Process
	log string
}

func (w *network) start(t *testing.T, o hostOptions) *host {
	t.Helper()
	text, err := json.Marshal(o)
	must(t, err)
	exe, err := os.Executable()
	must(t, err)
	w.hosts++
	h := &host{log: filepath.Join(w.lab.Dir(), fmt.Sprintf("host%d.log", w.hosts))}
	h.Process, err = w.host.Start(lab.Command{Path: exe, Env: []string{hostEnv + "=" + string(text)}, Log: h.log})
	must(t, err)
	h.until(t, "started", func(s status) bool { return s.Why != "" || s.Mapping.External.IsValid() })
	return h
}

// status is the last one that was printed, what was logged, and everything else,
// as a data race is.
func (h *host) status() (s status, log, noise string) {
	f, err := os.Open(h.log)
	if err != nil {
		return s, "", err.Error()
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		switch text := lines.Text() + "\n"; {
		case json.Unmarshal(lines.Bytes(), &s) == nil:
		case strings.Contains(text, "level=INFO"):
			log += text
		default:
			noise += text
		}
	}
	return s, log, noise
}

// until waits for a status, and returns it.
func (h *host) until(t *testing.T, what string, ok func(status) bool) status {
	t.Helper()
	var s status
	wait(t, func() error {
		var log, noise string
		if s, log, noise = h.status(); !ok(s) {
			return fmt.Errorf("not %s: %+v\n%s%s", what, s, log, noise)
		}
		return nil
	})
	return s
}

// untilMapped waits until the mapping is there and good.
func (h *host) untilMapped(t *testing.T) status {
	t.Helper()
	return h.until(t, "mapped", func(s status) bool { return s.Mapping.External.IsValid() && s.Why == "" && len(s.Told) > 0 })
}

// untilWhy waits until the reason why there is no good mapping has these words.
func (h *host) untilWhy(t *testing.T, words ...string) status {
	t.Helper()
	return h.until(t, strings.Join(words, ", "), func(s status) bool {
		for _, word := range words {
			if !strings.Contains(s.Why, word) {
				return false
			}
		}
		return true
	})
}

func (h *host) again(t *testing.T) {
	t.Helper()
	must(t, h.Signal(syscall.SIGHUP))
}

// end ends the host, which is to take a second at most, and half of one more
// where the machine is busy.
func (h *host) end(t *testing.T) {
	t.Helper()
	must(t, h.Stop(10*time.Second))
	s, _, noise := h.status()
	if !s.Ended || s.Took > exitTime+500*time.Millisecond || noise != "" {
		t.Errorf("the end: %v after %v %s", s.Ended, s.Took, noise)
	}
}

func wait(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := lab.Poll(ctx, 5*time.Millisecond, check); err != nil {
		t.Fatal(err)
	}
}

func TestHome(t *testing.T) {
	tests := []struct {
		name      string
		pmp, upnp bool
		protocol  string
	}{
		{"NAT-PMP only", true, false, NATPMP},
		{"UPnP only", false, true, UPnP},
		{"both", true, true, NATPMP},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newNetwork(t)
			if tt.pmp {
				w.speakNATPMP(t)
			}
			if tt.upnp {
				w.speakUPnP(t)
			}
			h := w.start(t, hostOptions{})
			s := h.untilMapped(t)
			want := Mapping{
				External: netip.AddrPortFrom(externalAddr, DefaultPort), Protocol: tt.protocol,
				Gateway: netip.MustParseAddr(lanGateway), Expires: s.Mapping.Expires,
			}
			if s.Mapping != want || time.Until(want.Expires) > DefaultLifetime {
				t.Errorf("mapping %+v, want %+v", s.Mapping, want)
			}
			if len(s.Told) != 1 || !s.Told[0].same(want) {
				t.Errorf("told peers %v, want %v", s.Told, want)
			}
			w.mapped(t, DefaultPort)
			h.end(t)
			w.empty(t)
		})
	}
}

func TestHomeNobody(t *testing.T) {
	w := newNetwork(t)
	h := w.start(t, hostOptions{})
	h.untilWhy(t, "gateway "+lanGateway+" forwards no port for us: NAT-PMP: not spoken there; UPnP: no answer")
	// A gateway that starts to speak is found once asked again.
	w.speakNATPMP(t)
	h.again(t)
	h.untilMapped(t)
	// And the loss of the default route is noticed.
	must(t, w.host.Down("eth0"))
	h.again(t)
	h.until(t, "without a mapping, and peers told so", func(s status) bool { // told a moment later
		return s.Why == errNoGateway.Error() && s.Mapping == (Mapping{}) && s.Told[len(s.Told)-1] == (Mapping{})
	})
	h.end(t)
}

func TestHomeSilent(t *testing.T) {
	w := newNetwork(t)
	must(t, w.gw.Down("lan0"))
	h := w.start(t, hostOptions{})
	h.untilWhy(t, "gateway "+lanGateway, "NAT-PMP: ", "UPnP: ")
	start := time.Now()
	h.end(t)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	must(t, w.gw.Up("lan0"))
	w.speakNATPMP(t)
	w.pmp.Set(func(s *portmaptest.NATPMPSettings) { s.Silent = true })
	h = w.start(t, hostOptions{})
	h.untilWhy(t, "NAT-PMP: no answer; UPnP: no answer")
	h.end(t)
}

func TestHomeLies(t *testing.T) {
	tests := []struct{ external, why string }{
		{"192.168.178.20", "double NAT"},
		{"100.72.1.2", "100.64.0.0/10"},
		{"127.0.0.1", "loopback"},
		{"239.255.255.250", "multicast"},
		{"203.0.113.200", "it lies on the overlay"},
	}
	w := newNetwork(t)
	w.speakNATPMP(t)
	w.pmp.Set(func(s *portmaptest.NATPMPSettings) { s.External = netip.MustParseAddr(tests[0].external) })
	h := w.start(t, hostOptions{Overlay: netip.MustParsePrefix("203.0.113.192/26")})
	for _, tt := range tests {
		w.pmp.Set(func(s *portmaptest.NATPMPSettings) { s.External = netip.MustParseAddr(tt.external) })
		h.again(t)
		s := h.untilWhy(t, tt.external+" is of no use to peers", tt.why)
		if !s.Mapping.DoubleNAT {
			t.Errorf("%s: mapping %+v is not marked as useless", tt.external, s.Mapping)
		}
	}
	h.end(t)
	w.empty(t)
}

func TestHomePermanent(t *testing.T) {
	w := newNetwork(t)
	w.speakUPnP(t)
	w.igd.Set(func(s *igdSettings) { s.PermanentOnly = true })
	h := w.start(t, hostOptions{})
	if s := h.untilMapped(t); !s.Mapping.Expires.IsZero() {
		t.Errorf("mapping %+v, want one for ever", s.Mapping)
	}
	if e := w.mapped(t, DefaultPort); !e.Expires.IsZero() {
		t.Errorf("the gateway forgets at %v", e.Expires)
	}
	h.end(t)
	w.empty(t)
	// A host that was killed finds its own mapping again.
	h = w.start(t, hostOptions{})
	h.untilMapped(t)
	must(t, h.Kill())
	w.mapped(t, DefaultPort)
	h = w.start(t, hostOptions{})
	h.untilMapped(t)
	w.mapped(t, DefaultPort)
	h.end(t)
	w.empty(t)
}

func TestHomeConflict(t *testing.T) {
	w := newNetwork(t)
	w.speakUPnP(t)
	somebody := netip.MustParseAddrPort(lanStranger + ":6785")
	w.table.Put(DefaultPort, portmaptest.Entry{To: somebody})
	w.igd.Set(func(s *igdSettings) { s.TakenPorts = 2 })
	h := w.start(t, hostOptions{})
	s := h.untilMapped(t)
	if port := s.Mapping.External.Port(); port < 49152 || w.table.All()[port].To != netip.MustParseAddrPort(lanHost+":6785") {
		t.Errorf("mapping %+v, on the gateway %v", s.Mapping, w.table.All())
	}
	h.end(t)
	if all := w.table.All(); len(all) != 1 || all[DefaultPort].To != somebody {
		t.Errorf("left %v, want the other host's", all)
	}
}

func TestHomeHugeDescription(t *testing.T) {
	w := newNetwork(t)
	w.speakUPnP(t)
	w.igd.Set(func(s *igdSettings) { s.Padding = 8 << 20 })
	h := w.start(t, hostOptions{})
	h.untilWhy(t, errTooLarge.Error())
	if rss, err := h.RSS(); err != nil || rss > 150<<20 {
		t.Errorf("resident memory %d MiB, %v", rss>>20, err)
	}
	h.end(t)
	w.empty(t)
}

// A stranger on the link sends us nowhere.
func TestHomeThirdParty(t *testing.T) {
	var hits atomic.Int32 // connections to the third party, and to the stranger's neighbour
	w := newNetwork(t)
	count := func(n *lab.Namespace, addr string) {
		l, err := n.Listen("tcp4", addr)
		must(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				hits.Add(1)
				c.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
	}
	count(w.third, thirdParty+":80")
	count(w.host, lanHost+":80")
	stranger := w.device(t, w.stranger, "eth0", lanStranger)
	stranger.Set(func(s *igdSettings) {
		s.Locations = []string{
			"http://" + thirdParty + "/rootDesc.xml", "http://" + lanHost + "/rootDesc.xml",
		}
	})
	h := w.start(t, hostOptions{})
	h.untilWhy(t, "the answer of "+lanStranger+" is not followed: it points to")
	// One whose description is its own, and whose control URL is not.
	stranger.Set(func(s *igdSettings) {
		s.Control = "http://" + thirdParty + "/ctl"
		s.Locations = nil
	})
	own := w.device(t, w.stranger, "eth0", lanStranger)
	own.Set(func(s *igdSettings) { s.Control = "http://" + thirdParty + "/ctl" })
	h.again(t)
	h.untilWhy(t, "its control URL leads to another host")
	// The gateway itself comes first, whatever others answer.
	w.speakUPnP(t)
	h.again(t)
	if s := h.untilMapped(t); s.Mapping.Gateway != netip.MustParseAddr(lanGateway) || w.igd.Count("AddPortMapping") != 1 {
		t.Errorf("mapping %+v, the gateway was asked %v", s.Mapping, w.igd.Calls())
	}
	if n := hits.Load(); n > 0 {
		t.Errorf("third parties saw %d connections", n)
	}
	h.end(t)
}

// Nothing goes out on the overlay.
func TestHomeOverlayIsLeftAlone(t *testing.T) {
	w := newNetwork(t)
	c, err := w.overlay.ListenMulticast("udp4", lab.ContainerLink, "239.255.255.250:1900")
	must(t, err)
	liar := w.device(t, w.overlay, lab.ContainerLink, "10.32.0.2")
	h := w.start(t, hostOptions{})
	h.untilWhy(t, "UPnP: no answer")
	h.end(t)
	must(t, c.SetReadDeadline(time.Now()))
	buf := make([]byte, 2048)
	if n, from, err := c.ReadFrom(buf); err == nil {
		t.Errorf("a container heard %q from %v", buf[:n], from)
	}
	if calls := liar.Calls(); len(calls) > 0 {
		t.Errorf("a container was asked %v", calls)
	}
	// Had it been asked over the bridge, it would have heard.
	var d net.PacketConn
	d, err = w.host.ListenPacket("udp4", "10.32.0.1:0")
	must(t, err)
	if _, err := d.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(239, 255, 255, 250), Port: 1900}); err != nil {
		t.Fatal(err)
	}
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	if n, _, err := c.ReadFrom(buf); err != nil || string(buf[:n]) != "x" {
		t.Errorf("the container hears nothing at all: %v", err)
	}
}

func TestHomeRenewal(t *testing.T) {
	for _, protocol := range []string{NATPMP, UPnP} {
		t.Run(protocol, func(t *testing.T) {
			w := newNetwork(t)
			if protocol == NATPMP {
				w.speakNATPMP(t)
			} else {
				w.speakUPnP(t)
			}
			h := w.start(t, hostOptions{Lifetime: 2 * time.Second, Check: time.Hour})
			first := h.untilMapped(t)
			s := h.until(t, "renewed twice", func(s status) bool {
				return s.Mapping.Expires.Sub(first.Mapping.Expires) > 1900*time.Millisecond
			})
			w.mapped(t, DefaultPort)
			if len(s.Told) != 1 {
				t.Errorf("told peers %v, want of the first only", s.Told)
			}
			h.end(t)
			w.empty(t)
		})
	}
}

func TestHomeReboot(t *testing.T) {
	for _, protocol := range []string{NATPMP, UPnP} {
		t.Run(protocol, func(t *testing.T) {
			w := newNetwork(t)
			reboot := w.table.Clear
			if protocol == NATPMP {
				w.speakNATPMP(t)
				w.pmp.Age(24 * time.Hour)
				reboot = w.pmp.Reboot
			} else {
				w.speakUPnP(t)
			}
			h := w.start(t, hostOptions{Check: 200 * time.Millisecond})
			h.untilMapped(t)
			w.mapped(t, DefaultPort)
			reboot()
			w.mapped(t, DefaultPort)
			s := h.until(t, "told again", func(s status) bool { return len(s.Told) > 1 })
			if len(s.Told) != 2 || !s.Told[0].same(s.Told[1]) || !s.Told[0].External.IsValid() {
				t.Errorf("told peers %v, want of the first mapping and of the same again", s.Told)
			}
			h.end(t)
			w.empty(t)
		})
	}
}

// The end does not wait for a gateway that has fallen silent.
func TestHomeEndsInTime(t *testing.T) {
	for _, protocol := range []string{NATPMP, UPnP} {
		t.Run(protocol, func(t *testing.T) {
			w := newNetwork(t)
			hang := func() { w.igd.Set(func(s *igdSettings) { s.Hang = true }) }
			if protocol == NATPMP {
				w.speakNATPMP(t)
				hang = func() { w.pmp.Set(func(s *portmaptest.NATPMPSettings) { s.Silent = true }) }
			} else {
				w.speakUPnP(t)
			}
			h := w.start(t, hostOptions{})
			h.untilMapped(t)
			hang()
			must(t, h.Stop(10*time.Second))
			s, log, noise := h.status()
			if !s.Ended || s.Took < exitTime-500*time.Millisecond || s.Took > exitTime+500*time.Millisecond {
				t.Errorf("the end took %v, want about %v", s.Took, exitTime)
			}
			if !strings.Contains(log, "may be left on the gateway") || noise != "" {
				t.Errorf("it does not say that a mapping is left: %s%s", log, noise)
			}
			w.mapped(t, DefaultPort)
		})
	}
}
