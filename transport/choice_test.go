package transport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
)

// choosing is a link over three transports, of one session.
type choosing struct {
	t     *testing.T
	wires []*wire
	set   *Set
	att   *Attachment
}

// newChoosing waits until the first moments of the link are over; then paths of
// which up says that they are up stand by.
func newChoosing(t *testing.T, prefs Preferences, up ...string) *choosing {
	c := &choosing{t: t, wires: []*wire{{name: "a"}, {name: "b"}, {name: "c"}}}
	c.set = NewSet(func() {}, c.wires[0], c.wires[1], c.wires[2])
	c.set.Prefer(prefs)
	c.att = attach(t, c.set, 1, "a", "b", "c")
	for _, name := range up {
		c.report(name, true)
	}
	c.sleep(time.Minute)
	return c
}

func (c *choosing) wire(name string) *wire { return c.wires[name[0]-'a'] }

func (c *choosing) report(name string, up bool) { c.wire(name).report(0, up) }

func (c *choosing) lose(name string, loss float64) {
	c.wire(name).made[0].states <- State{Up: true, Loss: loss}
	synctest.Wait()
}

func (c *choosing) sleep(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (c *choosing) want(name, when string) {
	c.t.Helper()
	if got := c.att.Link().State().Transport; got != name {
		c.t.Fatalf("%s: frames go over %q, want %q", when, got, name)
	}
}

func TestBetterPathTakesOverAfterTenSecondsOfHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "b", "c")
		c.want("b", "of those that are up")
		c.report("a", true)
		if p := c.att.Link().Paths()[0]; p.TakesOver.Sub(p.HealthySince) != takeOver || p.Rank != 1 || p.Active {
			t.Errorf("the path that waits is shown as %+v", p)
		}
		c.sleep(takeOver - time.Millisecond)
		c.want("b", "just before")
		c.sleep(time.Millisecond)
		c.want("a", "after its time")
		if _, flushed := c.wire("b").made[0].counts(); flushed == 0 {
			t.Error("the path in use before was not flushed")
		}
		c.report("a", false)
		c.want("b", "when it dies")
		if st := c.att.Link().State(); st.Switches != 2 || st.Reason == "" {
			t.Errorf("state %+v, want 2 switches and a reason", st)
		}
	})
}

// A path that gives no signs of life is left for one that does, and has to prove
// itself again. Where all are doubtful, as when the neighbour stands still, the best
// one stays.
func TestDoubtfulPathIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b", "c")
		doubt := func(name string, doubtful bool) {
			c.wire(name).made[0].states <- State{Up: true, Doubtful: doubtful}
			synctest.Wait()
		}
		doubt("b", true)
		c.want("a", "when another one is doubtful")
		doubt("a", true)
		c.want("c", "when it is doubtful itself")
		doubt("c", true)
		c.want("c", "when all are")
		for _, name := range []string{"c", "a", "b"} { // the one in use first
			doubt(name, false)
		}
		c.want("c", "when all live again")
		c.sleep(takeOver)
		c.want("a", "after its time")
		if st := c.att.Link().State(); st.Switches != 2 {
			t.Errorf("%d switches, want 2", st.Switches)
		}
	})
}

// A path that fails while it waits begins anew.
func TestInterruptedHealthDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "b")
		c.report("a", true)
		c.sleep(9 * time.Second)
		c.report("a", false)
		c.report("a", true)
		c.sleep(takeOver - time.Millisecond)
		c.want("b", "9 s and almost 10 s make no 10 s")
		c.sleep(time.Millisecond)
		c.want("a", "after 10 s in one piece")
	})
}

// The time that a transport must be healthy doubles with each failure, up to
// maxTakeOver, and is forgiven.
func TestFlappingTransportWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b")
		wait := takeOver
		for range 8 {
			c.report("a", false)
			c.want("b", "dead")
			c.report("a", true)
			c.sleep(wait - time.Millisecond)
			c.want("b", fmt.Sprintf("before %v", wait))
			c.sleep(time.Millisecond)
			c.want("a", fmt.Sprintf("after %v", wait))
			wait = min(2*wait, maxTakeOver)
		}
		c.sleep(forgiveAfter)
		c.report("a", false)
		c.report("a", true)
		c.sleep(takeOver)
		c.want("a", "after it was forgiven")
	})
}

// Of two that could replace a dead one, that which comes and goes is the second
// choice.
func TestFlappingTransportIsNoRefuge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b", "c")
		for range 3 {
			c.report("b", false)
			c.report("b", true)
		}
		c.report("a", false)
		c.want("c", "b was up and down all the time")
		c.report("c", false)
		c.want("b", "nothing else is left")
	})
}

// When a link comes back whose better transports have failed often, the last one has to
// prove itself before frames go over it: the others are as new, and known to work.
func TestFlappingTransportIsNotLeftAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b", "c")
		for range 3 {
			for _, name := range []string{"a", "b"} {
				c.report(name, false)
				c.report(name, true)
			}
		}
		for _, name := range []string{"a", "b", "c"} {
			c.report(name, false)
		}
		c.report("b", true)
		c.want("b", "the first that is up")
		c.report("c", true)
		c.want("b", "c has failed less often, and is up for no time")
		c.sleep(takeOver)
		c.want("c", "it is healthy, and the others may fail again")
	})
}

func TestLossyPathIsLeftAndTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b")
		c.lose("a", lossyAbove)
		c.want("a", "not above the limit")
		c.lose("a", 0.3)
		c.want("b", "a loses 30 %")
		c.lose("a", 0.1)
		c.sleep(time.Minute)
		c.want("b", "not clean yet")
		c.lose("b", 0.5)
		c.want("b", "both are lossy, but a has just been left")
		c.lose("a", 0)
		c.sleep(takeOver)
		c.want("a", "clean again")
	})
}

func TestPinIsUsedWhileItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b", "c")
		if err := c.set.Use(2, "c"); err != nil {
			t.Fatal(err)
		}
		c.want("c", "chosen by hand")
		c.lose("c", 0.9)
		c.want("c", "lossy, but chosen")
		c.report("c", false)
		c.want("a", "the choice is dead")
		c.report("c", true)
		c.sleep(takeOver)
		c.want("c", "the choice is back")

		again, err := c.set.Attach(Session{Remote: Peer{Name: 2, UID: 8}}, []string{"a", "c"}, func(int, byte, []byte) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		go again.Run(t.Context())
		synctest.Wait()
		c.wire("a").report(1, true)
		c.wire("c").report(1, true)
		if got := again.Link().State().Transport; got != "c" {
			t.Errorf("the peer's next incarnation uses %s, want the choice", got)
		}
		if err := c.set.Use(2, ""); err != nil {
			t.Fatal(err)
		}
		c.want("a", "the choice was taken back")
	})
}

func TestUseRefusesWhatCannotBeUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{Overrides: []Override{{Peer: 2, Transports: []string{"a", "b"}}}}, "a")
		if err := c.att.HandleControl(1, TagUnused, nil); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			peer frame.PeerName
			name string
		}{{2, "d"}, {2, "c"}, {2, "b"}, {3, "a"}} {
			if err := c.set.Use(tt.peer, tt.name); !errors.Is(err, ErrNotUsed) || c.set.Pin(tt.peer) != "" {
				t.Errorf("Use(%v, %s) = %v, want ErrNotUsed", tt.peer, tt.name, err)
			}
		}
	})
}

func TestPreferencesFor(t *testing.T) {
	p := Preferences{
		Default: []string{"a"},
		Overrides: []Override{
			{Net: netip.MustParsePrefix("10.0.0.0/8"), Transports: []string{"net"}},
			{Net: netip.MustParsePrefix("10.1.0.0/16"), Transports: []string{"never"}},
			{Peer: 7, Transports: []string{"name"}},
			{Net: netip.MustParsePrefix("fe80::/10"), Transports: []string{"local"}},
		},
	}
	for _, tt := range []struct {
		name frame.PeerName
		addr string
		want string
	}{
		{1, "192.0.2.1", "a"}, {1, "10.1.0.1", "net"}, {1, "::ffff:10.1.0.1", "net"},
		{7, "10.1.0.1", "name"}, {7, "192.0.2.1", "name"}, {1, "fe80::1%eth0", "local"},
	} {
		if got := p.For(tt.name, netip.MustParseAddr(tt.addr)); len(got) != 1 || got[0] != tt.want {
			t.Errorf("For(%v, %s) = %v, want %s", tt.name, tt.addr, got, tt.want)
		}
	}
	if got := p.For(1, netip.Addr{}); got[0] != "a" {
		t.Errorf("For(no address) = %v", got)
	}
}

// What is preferred is one thing, the index of a control message another.
func TestOverrideOrdersAndLeavesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{Overrides: []Override{{Peer: 2, Transports: []string{"c", "a"}}}}, "a", "c")
		c.want("c", "preferred for this peer")
		if len(c.wire("b").made) != 0 {
			t.Error("a transport that is left out was opened")
		}
		if err := c.att.HandleControl(2, 9, nil); err != nil || string(c.wire("c").made[0].control) != "\x09" {
			t.Errorf("control message for index 2: %v", err)
		}
		if err := c.att.HandleControl(1, 9, nil); err != nil {
			t.Errorf("control message for a path that is not open: %v", err)
		}
		paths := c.att.Link().Paths()
		got := []string{}
		for _, p := range paths {
			got = append(got, fmt.Sprint(p.Transport, " ", p.Rank, " ", p.Unused))
		}
		if want := []string{"c 1 false", "a 2 false", "b 0 true"}; !slices.Equal(got, want) {
			t.Errorf("paths %v, want %v", got, want)
		}
	})
}

// New preferences order live links at once; which transports are open is for the
// next session.
func TestPreferencesChangeLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b", "c")
		c.set.Prefer(Preferences{Default: []string{"b", "c", "a"}})
		c.want("b", "another default")
		if c.att.Stale() {
			t.Error("another order alone makes the session stale")
		}
		c.set.Prefer(Preferences{Default: []string{"b", "c", "a"}, Overrides: []Override{{Peer: 2, Transports: []string{"c"}}}})
		c.want("c", "an override")
		if !c.att.Stale() {
			t.Error("the session is not stale although it has paths that are not used")
		}
		c.report("c", false)
		c.want("a", "one that is not used is better than none")
		c.report("c", true)
		c.want("c", "it need not wait for its own place")
	})
}

func TestNeighbourIsToldOfUnusedTransports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := NewSet(func() {}, &wire{name: "a"}, &wire{name: "b"})
		set.Prefer(Preferences{Default: []string{"b"}})
		var told []string
		control := func(index int, tag byte, _ []byte) error {
			told = append(told, fmt.Sprint(index, " ", tag))
			return nil
		}
		for _, native := range []bool{false, true} {
			a, err := set.Attach(Session{Remote: Peer{Name: 2, UID: 7}, Native: native}, []string{"a", "b"}, control)
			if err != nil {
				t.Fatal(err)
			}
			go a.Run(t.Context())
			synctest.Wait()
		}
		if want := []string{"0 255"}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v: once, and only a meshd peer", told, want)
		}
		if _, err := set.Attach(Session{Remote: Peer{Name: 3, UID: 1}}, []string{"a"}, control); err == nil {
			t.Error("a session without any transport that is used was accepted")
		}
	})
}

// Whatever paths report, and whenever: frames have a path as long as one is up,
// and a dead one is never in use.
func TestAnUsablePathIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		c := newChoosing(t, Preferences{})
		up := map[string]bool{}
		orders := [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b"}, {"a", "c"}}
		for i := range 3000 {
			name := string(rune('a' + r.IntN(3)))
			switch r.IntN(8) {
			case 0:
				c.set.Prefer(Preferences{Default: orders[r.IntN(len(orders))]})
			case 1:
				_ = c.set.Use(2, []string{"", "a", "b", "c"}[r.IntN(4)]) // some are refused
			case 2:
				c.sleep(time.Duration(r.Int64N(int64(2 * maxTakeOver))))
			default:
				up[name] = r.IntN(2) == 0
				c.wire(name).made[0].states <- State{Up: up[name], Loss: r.Float64() - 0.5}
				c.sleep(time.Duration(r.Int64N(int64(takeOver))))
			}
			st := c.att.Link().State()
			any := up["a"] || up["b"] || up["c"]
			if st.Up != any || st.Up && !up[st.Transport] {
				t.Fatalf("step %d: state %+v while up are %v", i, st, up)
			}
		}
	})
}

// When the path in use is doubtful or dies, those that could take its place find out
// at once whether they work, and so do all when the host's network changes.
func TestOthersAreHurried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b", "c")
		want := func(when string, a, b, cc int) {
			t.Helper()
			got := [3]int{}
			for i, w := range c.wires {
				got[i] = w.made[0].hurries()
			}
			if got != [3]int{a, b, cc} {
				t.Errorf("%s: hurried %v, want %v", when, got, [3]int{a, b, cc})
			}
		}
		want("while all work", 0, 0, 0)
		c.wire("b").made[0].states <- State{Up: true, Doubtful: true}
		synctest.Wait()
		want("when one that stands by is doubtful", 0, 0, 0)
		c.wire("a").made[0].states <- State{Up: true, Doubtful: true}
		synctest.Wait()
		want("when the one in use is doubtful", 0, 1, 1)
		c.want("c", "when the others are doubtful")
		c.report("a", true)
		c.report("c", false)
		want("when the one in use dies", 1, 2, 1)
		c.set.Hurry()
		want("when the network changes", 2, 3, 1)
	})
}

// A doubtful path is left only for one that is known to work; where it has died, such a
// one is preferred.
func TestUnprovenPathIsNoRefuge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChoosing(t, Preferences{}, "a", "b", "c")
		tell := func(name string, st State) {
			st.Up = true
			c.wire(name).made[0].states <- st
			synctest.Wait()
		}
		tell("b", State{Unproven: true})
		tell("c", State{Unproven: true})
		tell("a", State{Doubtful: true})
		c.want("a", "while nothing else is known to work")
		tell("c", State{})
		c.want("c", "when one has answered")
		tell("a", State{})
		c.sleep(maxTakeOver)
		c.want("a", "when it was healthy for long")
		tell("c", State{Unproven: true})
		c.report("a", false)
		c.want("b", "when it dies and none is known to work")
		c.report("a", true)
		c.sleep(maxTakeOver)
		tell("c", State{})
		c.report("a", false)
		c.want("c", "when it dies and one is known to work")
		hurries := c.wire("a").made[0].hurries()
		tell("a", State{Unproven: true})
		c.sleep(maxTakeOver)
		c.want("c", "when a better one rests in good health")
		if c.wire("a").made[0].hurries() == hurries {
			t.Error("the better one was not asked")
		}
		tell("a", State{})
		c.want("a", "when it has answered")
	})
}
