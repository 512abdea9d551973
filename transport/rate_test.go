package transport

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// What is counted per second is what is shown, at whatever moment.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{name: "wire"}
		set := NewSet(func() {}, w)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go set.Run(ctx)
		l := attach(t, set, 1, "wire").Link()
		counters := w.made[0].session.Counters
		rates := func() (tx, rx *Rate) {
			synctest.Wait()
			p := l.Paths()[0]
			return p.TxRate, p.RxRate
		}
		if tx, rx := rates(); tx != nil || rx != nil {
			t.Errorf("rates of a path that has just begun = %v, %v, want unknown", tx, rx)
		}
		const step = 10 * time.Millisecond
		flow := func(d time.Duration) { // 1000 frames of 125 bytes a second one way, 200 the other
			for range d / step {
				time.Sleep(step)
				counters.Tx.Add(10, 1250)
				counters.Rx.Add(2, 250)
			}
		}
		flow(3 * time.Second)
		for range 25 { // at moments that do not fit the seconds
			flow(130 * time.Millisecond)
			tx, rx := rates()
			if tx == nil || rx == nil {
				t.Fatal("no rates of a path that has been there for seconds")
			}
			near(t, "tx frames", tx.Frames, 1000)
			near(t, "tx bits", tx.Bits, 1e6)
			near(t, "rx frames", rx.Frames, 200)
			near(t, "rx bits", rx.Bits, 200e3)
		}
		time.Sleep(2 * time.Second)
		if tx, rx := rates(); *tx != (Rate{}) || *rx != (Rate{}) {
			t.Errorf("rates after two quiet seconds = %v, %v, want 0", *tx, *rx)
		}
	})
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > want/50 {
		t.Errorf("%s = %v a second, want %v", what, got, want)
	}
}

// A neighbour that is restarted is another link, whose counters begin at 0.
func TestRatesOfARestartedNeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{name: "wire"}
		set := NewSet(func() {}, w)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go set.Run(ctx)
		none := func(int, byte, []byte) error { return nil }
		for incarnation := range uint64(3) {
			a, err := set.Attach(Session{Remote: Peer{Name: 2, UID: incarnation}}, []string{"wire"}, none)
			if err != nil {
				t.Fatal(err)
			}
			go a.Run(t.Context())
			w.made[incarnation].session.Counters.Tx.Add(1000, 100_000)
			for range 30 {
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if p := a.Link().Paths()[0]; p.TxRate != nil && (p.TxRate.Frames < 0 || p.TxRate.Frames > 2000 || p.TxRate.Bits < 0) {
					t.Errorf("rate = %v for 1000 frames", *p.TxRate)
				}
			}
			a.Lose(0)
			<-a.Done()
		}
	})
}

// Were counters to go back, rates would be 0 and not negative.
func TestRateIsNeverNegative(t *testing.T) {
	if got := (tally{5, 500}).since(tally{10, 1000}, time.Second); *got != (Rate{}) {
		t.Errorf("rate = %v, want 0", *got)
	}
}

// Handshakes and changes of keys add up over the sessions to one neighbour.
func TestHandshakesAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{name: "wire"}
		set := NewSet(func() {}, w)
		l := attach(t, set, 1, "wire").Link()
		want := func(handshakes, rekeys uint64) {
			t.Helper()
			synctest.Wait()
			if p := l.Paths()[0]; p.Handshakes != handshakes || p.Rekeys != rekeys {
				t.Errorf("%d handshakes and %d changes of keys, want %d and %d", p.Handshakes, p.Rekeys, handshakes, rekeys)
			}
		}
		want(0, 0)
		w.made[0].states <- State{Up: true, Handshakes: 1}
		w.made[0].states <- State{Up: true, Handshakes: 1, Rekeys: 2}
		want(1, 2)
		attach(t, set, 2, "wire")
		want(1, 2)
		w.made[0].states <- State{Up: true, Handshakes: 1, Rekeys: 3}
		w.made[1].states <- State{Up: true, Handshakes: 1}
		want(2, 3)
		w.made[1].states <- State{} // a path that forgets takes nothing back
		want(2, 3)
	})
}

func TestSampleDoesNotAllocate(t *testing.T) {
	l := &Link{counters: map[string]*Counters{"a": {}, "b": {}}}
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() { l.sample(now) }); n > 0 {
		t.Errorf("%v allocations per sample", n)
	}
}
