package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

const (
	soakHosts = 4
	soakNATs  = 2 // hosts behind NATs besides
	// soakTime is how long TestSoak harms the mesh unless MESHD_SOAK says another
	// time.
	soakTime = 40 * time.Second
	// What a daemon may use more than at first. Both leaks that matter grow with
	// the number of changes; these bounds do not.
	moreGoroutines = 5
	moreHeap       = 8 << 20  // bytes
	moreRSS        = 48 << 20 // bytes
)

// TestSoak harms a mesh at random: hosts are killed, restarted, frozen, cut off
// and given other addresses, bridges are deleted, NATs reboot. Afterwards everything
// is as it was.
//
//	weave01 … weave04 on one LAN, with a container each
//	weave05, weave06 behind NATs of their own on that LAN
func TestSoak(t *testing.T) {
	t.Parallel()
	limit := soakTime
	if s := os.Getenv("MESHD_SOAK"); s != "" {
		var err error
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatalf("MESHD_SOAK: %v", err)
		}
	}
	s := newSoak(t)
	first := s.usage()
	for end := time.Now().Add(limit); time.Now().Before(end); {
		s.round()
	}
	s.healAll()
	s.joined(s.hosts...)
	s.answers(s.boxes...)
	s.broadcastOnce("after the soak", s.boxes)
	s.compare(first)
}

// soak is a mesh under harm.
type soak struct {
	*world
	r     *rand.Rand
	lan   *lan
	boxes []*box
	nats  map[*host]*lab.NAT // what a host is behind
	// witness is never killed, so that what it uses can be compared.
	witness *host
	harmed  map[*host]func() // how to heal it
	next    int              // for addresses
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{r: rand.New(rand.NewPCG(seed(t), 2)), harmed: map[*host]func(){}, next: 100}
	s.world = newWorld(t)
	s.lan = s.world.lan("lan")
	var all []string
	for i := range soakHosts {
		addr := fmt.Sprintf("10.0.0.%d", i+1)
		s.host(fmt.Sprintf("weave%02d", i+1), s.lan.at(addr+"/24"))
		all = append(all, addr)
	}
	s.nats = map[*host]*lab.NAT{}
	for i := range soakNATs {
		s.addNAT(i)
	}
	for _, h := range s.hosts {
		h.start(all...)
	}
	s.witness = s.hosts[0]
	s.joined(s.hosts...)
	s.boxes = s.world.boxes(s.hosts...)
	s.answers(s.boxes...)
	return s
}

// addNAT adds a host behind a NAT on the LAN.
func (s *soak) addNAT(i int) {
	s.Helper()
	s.needNFT()
	nick := fmt.Sprintf("weave%02d", soakHosts+i+1)
	nat, err := s.lab.NAT(nick+"-gw", lab.NATPortRestricted)
	s.must(err)
	inside, err := s.lab.Switch(nick + "-lan")
	s.must(err)
	s.must(s.lan.Plug(nat.Namespace, lab.NATOutside, netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", 50+i))))
	s.must(inside.Plug(nat.Namespace, lab.NATInside, netip.MustParsePrefix(fmt.Sprintf("192.168.%d.1/24", 50+i))))
	h := s.host(nick, plug{lan: &lan{inside, nick + "-lan"}, addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.168.%d.2/24", 50+i))}})
	h.gateway(fmt.Sprintf("192.168.%d.1", 50+i))
	s.nats[h] = nat
}

// round harms one host or heals one, and lets the mesh find together at times.
func (s *soak) round() {
	s.Helper()
	h := s.hosts[s.r.IntN(len(s.hosts))]
	if heal, ok := s.harmed[h]; ok {
		delete(s.harmed, h)
		s.Logf("%s: heal", h.NickName)
		heal()
		return
	}
	harms := []func(*host){s.freeze, s.dropBridge, s.settle}
	if s.nats[h] == nil {
		harms = append(harms, s.mute, s.moveAddress)
	} else {
		harms = append(harms, s.rebootNAT)
	}
	if h != s.witness {
		harms = append(harms, s.killOne, s.restartOne, s.endOne)
	}
	harms[s.r.IntN(len(harms))](h)
	s.goOn()
}

// goOn lets up to a second pass: how the harms overlap is part of the chance.
func (s *soak) goOn() {
	select {
	case <-time.After(time.Duration(s.r.IntN(1000)) * time.Millisecond):
	case <-s.Context().Done():
	}
}

func (s *soak) killOne(h *host) {
	s.Logf("%s: kill", h.NickName)
	h.kill()
	s.harmed[h] = h.again
}

func (s *soak) restartOne(h *host) {
	s.Logf("%s: kill and start at once", h.NickName)
	h.kill()
	h.again()
	h.ready()
}

func (s *soak) endOne(h *host) {
	s.Logf("%s: end in order", h.NickName)
	h.ready() // before that the signal might find no handler
	h.down()
	s.harmed[h] = h.again
}

func (s *soak) freeze(h *host) {
	s.Logf("%s: freeze", h.NickName)
	h.freeze()
	s.harmed[h] = h.thaw
}

// mute partitions: without a word, nothing passes.
func (s *soak) mute(h *host) {
	s.Logf("%s: cut off", h.NickName)
	s.must(s.lan.Mute(h.Host, "eth0"))
	s.harmed[h] = func() { s.must(s.lan.Unmute(h.Host, "eth0")) }
}

// rebootNAT makes the NAT that a host is behind forget all mappings.
func (s *soak) rebootNAT(h *host) {
	s.Logf("%s: its NAT reboots", h.NickName)
	s.must(s.nats[h].Reboot())
}

func (s *soak) dropBridge(h *host) {
	s.Logf("%s: delete the bridge", h.NickName)
	s.must(h.Host.Delete(peer.DefaultBridge))
	s.eventually("bridge is back", h.alive(func(context.Context) error {
		_, err := h.Host.Look(peer.DefaultBridge)
		return err
	}))
	for _, b := range h.boxes {
		b.reattach()
	}
}

// moveAddress gives a host another address. The others have its first one as
// their target: it gets that back at the end.
func (s *soak) moveAddress(h *host) {
	s.next++
	next := netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", s.next%100+100))
	s.Logf("%s: move to %v", h.NickName, next)
	old := h.plugs[0].addrs[0]
	move := func(from, to netip.Prefix) {
		s.must(h.Host.DelAddress("eth0", from))
		s.must(h.Host.AddAddress("eth0", to))
	}
	move(old, next)
	s.harmed[h] = func() { move(next, old) }
}

// settle heals everything and waits until all containers reach each other.
func (s *soak) settle(*host) {
	s.Logf("heal all")
	s.healAll()
	s.eventually("all reach all", func(ctx context.Context) error {
		var errs []error
		for _, h := range s.hosts {
			errs = append(errs, h.alive(func(ctx context.Context) error { return h.Reaches(ctx, peersOf(s.hosts)...) })(ctx))
		}
		return errors.Join(errs...)
	})
	s.answers(s.boxes...)
}

func (s *soak) healAll() {
	for _, h := range s.hosts { // in their order, so that a seed repeats it
		if heal, ok := s.harmed[h]; ok {
			delete(s.harmed, h)
			heal()
		}
	}
}

func (s *soak) usage() map[*host]peer.Usage {
	s.Helper()
	out := map[*host]peer.Usage{}
	for _, h := range s.hosts {
		u, err := h.Usage(s.within(patience))
		s.must(err)
		out[h] = u
	}
	return out
}

// compare waits until each daemon uses no more than at first, and logs the very
// reading that was judged: a later one may differ again.
func (s *soak) compare(first map[*host]peer.Usage) {
	s.Helper()
	for _, h := range s.hosts {
		was := first[h]
		var is peer.Usage
		s.eventually(h.NickName+" uses what it used", func(ctx context.Context) (err error) {
			if is, err = h.Usage(ctx); err != nil {
				return err
			}
			return grown(is, was)
		})
		s.Logf("%s: %+v, at first %+v", h.NickName, is, was)
	}
}

// grown says that a daemon uses more than it did. The race detector keeps memory of
// its own, which is not judged.
func grown(is, was peer.Usage) error {
	if is.Goroutines > was.Goroutines+moreGoroutines || is.Heap > was.Heap+moreHeap || !raceEnabled && is.RSS > was.RSS+moreRSS {
		return fmt.Errorf("%+v, was %+v at first", is, was)
	}
	return nil
}
