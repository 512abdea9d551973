package transport

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
)

// wire is a transport whose paths the test drives: a real path with nothing at
// the other end.
type wire struct {
	name string
	mu   sync.Mutex
	made []*wirePath
}

type wirePath struct {
	session Session
	states  chan State // sent by the test, received by Run
	fail    chan error // likewise
	mu      sync.Mutex
	sent    int
	flushed int
	control []byte
	hurried int
}

func (w *wire) Name() string { return w.name }

func (w *wire) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (w *wire) Open(s Session) (Path, error) {
	p := &wirePath{session: s, states: make(chan State), fail: make(chan error)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made = append(w.made, p)
	return p, nil
}

func (p *wirePath) Send(frame.Packet) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	return nil
}

func (p *wirePath) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushed++
	return nil
}

func (p *wirePath) counts() (sent, flushed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent, p.flushed
}

func (p *wirePath) Hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hurried++
}

func (p *wirePath) hurries() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hurried
}

func (p *wirePath) HandleControl(tag byte, _ []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control = append(p.control, tag)
}

func (p *wirePath) Run(ctx context.Context, report func(State)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-p.states:
			report(s)
		case err := <-p.fail:
			return err
		}
	}
}

// attach adds a session to the set and runs it.
func attach(t *testing.T, s *Set, uid uint64, common ...string) *Attachment {
	t.Helper()
	a, err := s.Attach(Session{Remote: Peer{Name: 2, UID: 7}, UID: uid}, common,
		func(int, byte, []byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	go a.Run(t.Context())
	synctest.Wait()
	return a
}

func (w *wire) report(i int, up bool) {
	w.made[i].states <- State{Up: up, MTU: 1000 + i, Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(1000+i))}
	synctest.Wait()
}

func TestLinkUsesTheMostPreferredPathThatIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, slow := &wire{name: "fast"}, &wire{name: "slow"}
		set := NewSet(func() {}, fast, slow)
		l := attach(t, set, 1, "fast", "slow").Link()
		if err := l.Send(frame.Packet{}); !errors.Is(err, ErrNoPath) {
			t.Fatalf("Send without a path: %v, want ErrNoPath", err)
		}
		for _, step := range []struct {
			w    *wire
			up   bool
			want string
		}{
			{slow, true, "slow"}, {fast, true, "fast"}, {slow, false, "fast"},
			{slow, true, "fast"}, {fast, false, "slow"}, {slow, false, ""},
		} {
			step.w.report(0, step.up)
			if got := l.State(); got.Transport != step.want || got.Up != (step.want != "") {
				t.Fatalf("after %s up=%v: state %+v, want transport %q", step.w.name, step.up, got, step.want)
			}
			if got := l.State(); got.Addr.IsValid() != got.Up || int(got.Addr.Port()) != got.MTU {
				t.Fatalf("state %+v, want the address of the path in use", got)
			}
		}
	})
}

// A new session's paths replace the old ones only when one of them is up, and
// the old ones are read for a moment longer.
func TestNewSessionTakesOverWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{name: "w"}
		set := NewSet(func() {}, w)
		old := attach(t, set, 1, "w")
		w.report(0, true)
		old.Lose(10 * time.Second)
		select {
		case <-w.made[0].session.Done:
		default:
			t.Fatal("the path was not told that its session is lost")
		}
		fresh := attach(t, set, 2, "w")
		l := fresh.Link()
		if l != old.Link() {
			t.Fatal("a new session to the same incarnation has another link")
		}
		l.Send(frame.Packet{})
		if sent, _ := w.made[0].counts(); sent != 1 {
			t.Fatal("the old path did not carry the frame while the new one is not up")
		}
		w.report(1, true)
		l.Send(frame.Packet{})
		sent, _ := w.made[1].counts()
		if _, flushed := w.made[0].counts(); sent != 1 || flushed == 0 {
			t.Fatal("the new path did not take over, or the old one was not flushed")
		}
		time.Sleep(lingerReplaced / 2)
		synctest.Wait()
		if isDone(old) {
			t.Fatal("the old path ended at once")
		}
		time.Sleep(lingerReplaced)
		synctest.Wait()
		if !isDone(old) || isDone(fresh) {
			t.Fatal("want the old path ended and the new one alive")
		}
	})
}

func isDone(a *Attachment) bool {
	select {
	case <-a.Done():
		return true
	default:
		return false
	}
}

// A link whose session is lost lives for the time it was given, no longer, and is
// then forgotten.
func TestLinkOutlivesItsSessionForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{name: "w"}
		set := NewSet(func() {}, w)
		a := attach(t, set, 1, "w")
		w.report(0, true)
		a.Lose(10 * time.Second)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if !a.Link().State().Up {
			t.Fatal("the link died with its session")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if a.Link().State().Up || len(set.links) != 0 {
			t.Fatalf("the link lives on after its time: %+v, %d links", a.Link().State(), len(set.links))
		}
	})
}

func TestAttachmentEndsWhenItsLastPathFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, v := &wire{name: "w"}, &wire{name: "v"}
		set := NewSet(func() {}, w, v)
		a := attach(t, set, 1, "w", "v")
		w.report(0, true)
		w.made[0].fail <- errors.New("no heartbeat")
		synctest.Wait()
		if isDone(a) {
			t.Fatal("ended while a path is left")
		}
		v.made[0].fail <- errors.New("reset")
		synctest.Wait()
		if !isDone(a) || a.Err() == nil || len(set.links) != 0 {
			t.Fatalf("done %v, err %v, %d links; want done with both reasons and no link", isDone(a), a.Err(), len(set.links))
		}
	})
}

// A less preferred path of a new session does not take the better one of the old
// session away.
func TestWorsePathOfANewSessionDoesNotRetireABetterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, slow := &wire{name: "fast"}, &wire{name: "slow"}
		set := NewSet(func() {}, fast, slow)
		old := attach(t, set, 1, "fast", "slow")
		fast.report(0, true)
		attach(t, set, 2, "fast", "slow")
		slow.report(1, true)
		time.Sleep(2 * lingerReplaced)
		synctest.Wait()
		if isDone(old) || old.Link().State().Transport != "fast" {
			t.Fatalf("old session ended: %v, state %+v; want it alive and in use", isDone(old), old.Link().State())
		}
		fast.report(1, true)
		time.Sleep(2 * lingerReplaced)
		synctest.Wait()
		if !isDone(old) || old.Link().State().Transport != "fast" {
			t.Fatal("the old session lives on although the new one has all it had")
		}
	})
}

func TestHandleControlChecksTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{name: "w"}
		a := attach(t, NewSet(func() {}, w), 1, "w")
		for _, index := range []int{-1, 1, 255} {
			if a.HandleControl(index, 1, nil) == nil {
				t.Errorf("index %d was taken", index)
			}
		}
		if err := a.HandleControl(0, 3, nil); err != nil || string(w.made[0].control) != "\x03" {
			t.Errorf("index 0: %v, path got %v", err, w.made[0].control)
		}
	})
}

func TestAttachRefusesATransportThatIsNotConfigured(t *testing.T) {
	set := NewSet(func() {}, &wire{name: "w"})
	if _, err := set.Attach(Session{Remote: Peer{Name: 2, UID: 7}}, []string{"quic"}, nil); err == nil {
		t.Fatal("no error")
	}
	if len(set.links) != 0 || len(set.users) != 0 {
		t.Errorf("a refused session left %d links and %d users", len(set.links), len(set.users))
	}
}

// Sending over a link costs no allocation.
func TestSendDoesNotAllocate(t *testing.T) {
	l := &Link{}
	l.best.Store(&slot{path: &wirePath{}})
	if n := testing.AllocsPerRun(100, func() { l.Send(frame.Packet{}); l.Flush() }); n != 0 {
		t.Errorf("%v allocations per frame, want 0", n)
	}
}
