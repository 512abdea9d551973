package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meshd/internal/lab"
	"meshd/nat/nattest"
)

// The sites that a cell of the matrix has one host at: a NAT kind, or more than that.
const (
	siteIPv6Only = "ipv6-only"
	siteDual     = "dual-stack"
)

// natSites are the rows and columns of the matrix.
var natSites = []string{
	string(lab.NATNone), string(lab.NATFullCone), string(lab.NATAddressRestricted), string(lab.NATPortRestricted),
	string(lab.NATPortRestrictedOpen), string(lab.NATSymmetric), string(lab.NATDouble), string(lab.NATShortLived),
	string(lab.NATUDPBlocked), siteIPv6Only, siteDual,
}

// natExpectedOf is the path of a cell: direct is what RFC 4787 behaviour allows without
// guessing ports, as it is in memory (nattest.Direct). Between a host with IPv6 only and
// one with IPv4 only there is none.
func natExpectedOf(a, b string) string {
	if a == siteIPv6Only || b == siteIPv6Only {
		for _, s := range []string{a, b} {
			if s != siteIPv6Only && s != siteDual {
				return "relayed"
			}
		}
		return "direct" // through two firewalls
	}
	kind := func(s string) nattest.Kind {
		if s == siteDual {
			return nattest.PortRestricted
		}
		return nattest.Kind(s)
	}
	if nattest.UDPBlocked == kind(a) && kind(b) == nattest.None || nattest.UDPBlocked == kind(b) && kind(a) == nattest.None {
		return "direct" // over TCP
	}
	if nattest.Direct(kind(a), kind(b)) || a == siteDual && b == siteDual {
		return "direct"
	}
	return "relayed"
}

// natConfig makes the site of a row or column.
func natConfig(site string) lab.SiteConfig {
	switch site {
	case siteIPv6Only:
		return lab.SiteConfig{NoIPv4: true, IPv6: lab.FirewalledIPv6}
	case siteDual:
		return lab.SiteConfig{NAT: lab.NATPortRestricted, IPv6: lab.FirewalledIPv6}
	}
	return lab.SiteConfig{NAT: lab.NATKind(site)}
}

// cellResult is what a cell of the matrix gave.
type cellResult struct {
	A, B        string
	Path        string        // of frames in the end
	FirstFrame  time.Duration // from the start of both daemons
	Direct      time.Duration // 0: not
	Lost        int           // pings from the first one that was answered, and during the move
	Doubled     int
	FloodsLost  int // broadcasts from then on that did not arrive
	FloodsTwice int
	Why         string // first line
}

// why is the answer of `meshd why`.
type whyAnswer struct {
	Path      string   `json:"path"`
	Via       string   `json:"via"`
	Transport string   `json:"transport"`
	Reasons   []string `json:"reasons"`
	Remedy    string   `json:"remedy"`
}

func (h *host) why(ctx context.Context, of *host) (w whyAnswer, text string, err error) {
	out, err := h.Command(ctx, "why", "--json", of.Name)
	if err != nil {
		return w, "", err
	}
	if err := json.Unmarshal([]byte(out), &w); err != nil {
		return w, "", err
	}
	text, err = h.Command(ctx, "why", of.Name)
	return w, text, err
}

// cell runs two hosts at two kinds of sites beside a public one.
func cell(t *testing.T, a, b string) cellResult {
	measuring <- struct{}{}
	measured := sync.OnceFunc(func() { <-measuring })
	defer measured()
	w := newNATWorld(t)
	ha, _ := w.behind("a", natConfig(a))
	hb, _ := w.behind("b", natConfig(b))
	w.public.up()
	begin := time.Now()
	for h, site := range map[*host]string{ha: a, hb: b} {
		h.start(w.targetFor(site))
	}
	ha.ready()
	hb.ready()
	boxes := w.boxes(ha, hb)
	r := cellResult{A: a, B: b}
	ping, err := boxes[0].Ping(boxes[1].addr(), lab.PingConfig{Interval: 20 * time.Millisecond})
	w.must(err)
	w.eventually("first frame", func(context.Context) error {
		if ping.Stats(0).Received == 0 {
			return fmt.Errorf("no answer")
		}
		return nil
	})
	r.FirstFrame = time.Since(begin)
	before := ping.Stats(0)
	floods := boxes[0].floods(boxes[1])
	want := natExpectedOf(a, b)
	settle := 8 * time.Second
	if want == "direct" {
		settle = patience
	}
	limit := time.Now().Add(settle)
	for r.Path != "direct" && time.Now().Before(limit) {
		answer, _, err := ha.why(w.within(patience), hb)
		w.must(err)
		if r.Path = answer.Path; r.Path == "direct" {
			r.Direct = time.Since(begin)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r.Path == "direct" {
		w.eventually("both ends go direct", func(ctx context.Context) error {
			answer, _, err := hb.why(ctx, ha)
			if err == nil && answer.Path != "direct" {
				err = fmt.Errorf("%+v", answer)
			}
			return err
		})
		time.Sleep(time.Second) // what is lost or doubled by the move shows
	}
	stats := ping.Stop(5 * time.Second)
	r.FloodsLost, r.FloodsTwice = floods.end()
	r.Lost = max(0, stats.Lost()-before.Lost())
	r.Doubled = stats.Duplicates
	_, text, err := ha.why(w.within(patience), hb)
	w.must(err)
	r.Why, _, _ = strings.Cut(text, "\n")
	if r.Path != want {
		w.Errorf("%s to %s is %s, want %s\n%s", a, b, r.Path, want, text)
	}
	// Broadcasts may come twice in the 100 ms until the relay knows of the direct way.
	if r.Lost+r.Doubled+r.FloodsLost > 0 {
		w.Errorf("%s to %s: lost %d and doubled %d pings, lost %d broadcasts", a, b, r.Lost, r.Doubled, r.FloodsLost)
	}
	if !strings.HasPrefix(text, want) {
		w.Errorf("why says %q, not %s", r.Why, want)
	}
	measured()
	if d := holdTime(t); d > 0 && !w.Failed() {
		hold(w.world, d, boxes[0], boxes[1], r.Path)
	}
	return r
}

// measuring are the cells that come up and are measured at a time: as many as there are
// processors. With MESHD_NATHOLD further ones are held meanwhile, as `-parallel` allows.
var measuring = make(chan struct{}, runtime.GOMAXPROCS(0))

// holdEvery is the time between two looks, and two pings, while a cell is held.
const holdEvery = time.Second

// holdTime is MESHD_NATHOLD, 5m for example; 0: cells are not held.
func holdTime(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(cmp.Or(os.Getenv("MESHD_NATHOLD"), "0s"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// hold watches a cell under light traffic for d: frames go on the same way all the time.
// A better pair may take over once.
func hold(w *world, d time.Duration, from, to *box, path string) {
	w.Helper()
	ping, err := from.Ping(to.addr(), lab.PingConfig{Interval: holdEvery})
	w.must(err)
	ends := []*held{{at: from.host, to: to.host}, {at: to.host, to: from.host}}
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(holdEvery) {
		for _, x := range ends {
			x.look(w, path)
		}
	}
	if s := ping.Stop(5 * time.Second); s.Lost()+s.Duplicates > 0 {
		w.Errorf("held for %v: %v", d, s)
	}
	for _, x := range ends {
		w.Logf("%s to %s in %v: %s", x.at.NickName, x.to.NickName, d, strings.Join(x.pairs, ", then "))
		if len(x.pairs) > 2 {
			w.Errorf("the pair of %s and %s changes again and again", x.at.NickName, x.to.NickName)
		}
	}
}

// held is one end of a cell that is held.
type held struct {
	at, to *host
	pairs  []string // transport and address to the next hop, each time they changed
}

// look notes how frames go now, and ends the test where that is not by path.
func (x *held) look(w *world, path string) {
	w.Helper()
	r, err := x.at.Report(w.within(patience))
	w.must(err)
	via := r.Via(x.to.Name)
	if (via == x.to.Name) != (path == "direct") || via == "" {
		w.Fatalf("%s to %s was %s and goes via %q", x.at.NickName, x.to.NickName, path, via)
	}
	c, _ := r.Active(via)
	pair := c.Transport
	for _, p := range c.Paths {
		if p.Active {
			pair += " " + p.Address
		}
	}
	if n := len(x.pairs); n == 0 || x.pairs[n-1] != pair {
		x.pairs = append(x.pairs, pair)
	}
}

// floods is a series of broadcasts from one container that another one counts.
type floods struct {
	w    *world
	from *box
	at   *lab.Capture
	text string
	stop chan struct{} // closed by end
	sent chan int      // capacity 1: how many were sent
}

// floodEvery is the time between two broadcasts.
const floodEvery = 20 * time.Millisecond

// floods begins to send broadcasts.
func (b *box) floods(to *box) *floods {
	b.w.Helper()
	f := &floods{w: b.w, from: b, text: "flood of " + b.Name + " ", stop: make(chan struct{}), sent: make(chan int, 1)}
	f.at = to.capture(f.text)
	mac := b.mac()
	go func() {
		tick := time.NewTicker(floodEvery)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-f.stop:
				f.sent <- n
				return
			case <-tick.C:
				if err := b.SendFrame(lab.ContainerLink, frame(broadcast, mac, 0, fmt.Sprintf("%s%06d", f.text, n))); err != nil {
					b.w.Error(err)
				}
			}
		}
	}()
	return f
}

// end stops them and counts what came.
func (f *floods) end() (lost, twice int) {
	f.w.Helper()
	close(f.stop)
	sent := <-f.sent
	seen := map[string]int{}
	begin := time.Now()
	for len(seen) < sent && time.Since(begin) < 2*time.Second {
		time.Sleep(floodEvery) // for the last ones
		clear(seen)
		for _, raw := range f.at.Frames() {
			if _, number, ok := strings.Cut(string(raw), f.text); ok && len(number) >= 6 {
				seen[number[:6]]++
			}
		}
	}
	for _, n := range seen {
		if n > 1 {
			twice++
		}
	}
	return sent - len(seen), twice
}

// targetFor is the public host's address that a site's host can reach.
func (w *natWorld) targetFor(site string) string {
	if site == siteIPv6Only {
		return w.target6
	}
	return w.target
}

// natResults collects what cells gave, for `make natmatrix`.
var natResults struct {
	mu   sync.Mutex
	list []cellResult
}

// TestNATMatrix runs all pairs of sites with MESHD_NATMATRIX=all, and else one cell of
// each kind of outcome.
func TestNATMatrix(t *testing.T) {
	once(t)
	all := os.Getenv("MESHD_NATMATRIX") != ""
	short := map[string]bool{
		"port-restricted/port-restricted": true, "port-restricted-open/port-restricted-open": true, "symmetric/full-cone": true,
		"symmetric/port-restricted": true, "double/double": true, "udp-blocked/none": true, "ipv6-only/dual-stack": true, "ipv6-only/none": true,
	}
	t.Cleanup(func() {
		if all {
			printMatrix(natResults.list)
		}
	})
	for i, a := range natSites {
		for _, b := range natSites[:i+1] {
			name := a + "/" + b
			if !all && !short[name] && !short[b+"/"+a] {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := cell(t, a, b)
				t.Logf("%+v", r)
				natResults.mu.Lock()
				defer natResults.mu.Unlock()
				natResults.list = append(natResults.list, r)
			})
		}
	}
}

// printMatrix prints what cells gave as the table of the README.
func printMatrix(list []cellResult) {
	slices.SortStableFunc(list, func(x, y cellResult) int {
		return cmp.Or(cmp.Compare(slices.Index(natSites, x.A), slices.Index(natSites, y.A)), cmp.Compare(slices.Index(natSites, x.B), slices.Index(natSites, y.B)))
	})
	fmt.Println("| A | B | path | first frame | direct | pings lost, doubled | broadcasts lost, doubled |\n|---|---|---|---:|---:|---:|---:|")
	for _, r := range list {
		direct := "-"
		if r.Direct > 0 {
			direct = fmt.Sprintf("%.1f s", r.Direct.Seconds())
		}
		fmt.Printf("| %s | %s | %s | %.1f s | %s | %d, %d | %d, %d |\n", r.A, r.B, r.Path, r.FirstFrame.Seconds(), direct, r.Lost, r.Doubled, r.FloodsLost, r.FloodsTwice)
	}
}
