package punch

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"meshd/transport/transporttest"
)

// otherAddr is an end's other address.
func otherAddr(e *transporttest.End) netip.AddrPort {
	for _, a := range e.Host.Addrs() {
		if a != e.Addr.Addr() {
			return netip.AddrPortFrom(a, e.Addr.Port())
		}
	}
	panic("one address")
}

// While frames flow both ways the path moves to a faster address and back to the slow one,
// whichever end asks for it: none is lost, both ends go there, and neither comes back.
func TestMove(t *testing.T) {
	for _, name := range []string{"dialler", "acceptor"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := transporttest.Link{Latency: 40 * time.Millisecond, Latency6: 3 * time.Millisecond}
				p, c := pair(t, factory(nil), l)
				by, other := c.A.Path.(*path), p.B
				if name == "acceptor" {
					by, other = c.B.Path.(*path), p.A
				}
				const n = 3000
				for i := range uint64(n) {
					switch i {
					case n / 3:
						by.Move(otherAddr(other))
					case 2 * n / 3:
						for _, s := range []*transporttest.Side{c.A, c.B} {
							if got := s.State().Addr; !got.Addr().Is6() {
								t.Errorf("frames go to %v a second after the move", got)
							}
						}
						by.Move(other.Addr)
					}
					_ = c.A.Path.Send(packetTo(p.A, p.B, transporttest.Frame(i, 1300)))
					_ = c.A.Path.Flush()
					_ = c.B.Path.Send(packetTo(p.B, p.A, transporttest.Frame(i, 1300)))
					_ = c.B.Path.Flush()
					<-time.After(time.Millisecond)
				}
				<-time.After(2 * time.Second)
				if a, b := len(p.A.Take()), len(p.B.Take()); a != n || b != n {
					t.Errorf("%d and %d frames came out, want %d each", a, b, n)
				}
				for _, s := range c.Sides() {
					moved := 0
					was := netip.AddrPort{}
					for _, st := range s.States() {
						if st.Addr != was && was.IsValid() {
							moved++
						}
						if was = st.Addr; !st.Up && moved > 0 {
							t.Errorf("the path went down: %s", st.Why)
						}
					}
					if moved != 2 || s.State().Addr.Addr().Is6() {
						t.Errorf("%d moves, the last to %v, want 2", moved, s.State().Addr)
					}
				}
			})
		})
	}
}

// A move to where the neighbour is not reached any more ends after a second.
func TestMoveIntoTheDark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := pair(t, factory(nil), transporttest.Link{Latency: 10 * time.Millisecond, Latency6: time.Hour})
		c.A.Path.(*path).Move(otherAddr(p.B))
		<-time.After(moveTime + 600*time.Millisecond)
		works(t, p, c)
		if got := c.A.State(); got.Addr != p.B.Addr || !got.Up {
			t.Errorf("%+v", got)
		}
	})
}
