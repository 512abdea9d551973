package measure_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
	"meshd/routing/measure"
	"meshd/transport"
)

// host is one peer of a test: a forwarder with a meter, and a bridge.
type host struct {
	name      frame.PeerName
	forwarder *routing.Forwarder
	meter     *measure.Meter

	mu     sync.Mutex
	bridge []frame.Frame // what came out
}

// way is Config.Way.
func (h *host) way(dst frame.PeerName) (measure.Hop, func([]frame.Packet) (int, error)) {
	fib := h.forwarder.FIB()
	via, _ := fib.NextHop(dst)
	return measure.Hop{Via: via, Transport: "link"}, func(p []frame.Packet) (int, error) { return h.forwarder.OriginateBy(fib, p) }
}

// Write implements routing.Port.
func (h *host) Write(frames []frame.Frame) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bridge = append(h.bridge, frames...)
	return len(frames), nil
}

// link carries 4000 frames per second to a host; what it has no room for is lost.
type link struct {
	to *host

	mu   sync.Mutex
	busy time.Time
}

const linkRate = 4000

func (l *link) Flush() error { return nil }

func (l *link) Send(p frame.Packet) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.busy.Before(now) {
		l.busy = now
	}
	if l.busy.Sub(now) > 5*time.Millisecond {
		return nil
	}
	l.busy = l.busy.Add(time.Second / linkRate)
	p.Frame.Data = slices.Clone(p.Frame.Data)
	time.AfterFunc(l.busy.Sub(now), func() { l.to.forwarder.FromLinks([]frame.Packet{p}) })
	return nil
}

// chain makes hosts of which each is connected to the next one.
func chain(n int) []*host {
	hosts := make([]*host, n)
	for i := range hosts {
		h := &host{name: frame.PeerName(0x020000000001 + i)}
		h.meter = measure.New(measure.Config{
			Self: h.name,
			Send: func(p []frame.Packet) (int, error) { return h.forwarder.Originate(p) },
			Way:  h.way,
			Tell: func(dst frame.PeerName, msg []byte) error {
				for _, to := range hosts {
					if to.name == dst {
						go to.meter.Told(h.name, slices.Clone(msg))
					}
				}
				return nil
			},
		})
		h.forwarder = routing.NewForwarder(routing.Config{
			Self: h.name, Port: h, MACs: routing.NewMACTable(routing.MACConfig{Self: h.name}), Local: h.meter.Take,
		})
		hosts[i] = h
	}
	route(hosts, func(i, j int) bool { return i == j+1 || j == i+1 })
	return hosts
}

// route gives the hosts the routes that follow from who is connected.
func route(hosts []*host, connected func(i, j int) bool) {
	var entries []routing.Peer
	for i, h := range hosts {
		p := routing.Peer{Name: h.name, UID: uint64(i + 1), Version: 1}
		for j, other := range hosts {
			if i != j && connected(i, j) {
				p.Connections = append(p.Connections, routing.Connection{
					Peer: other.name, RemoteAddr: "192.0.2.1:6783", Established: true,
				})
			}
		}
		entries = append(entries, p)
	}
	for i, h := range hosts {
		t := routing.NewTopology(routing.Peer{Name: h.name, UID: uint64(i + 1)}, nil)
		senders := map[frame.PeerName]transport.Sender{}
		for _, c := range entries[i].Connections {
			t.SetConnection(c)
			senders[c.Peer] = &link{to: hosts[c.Peer-hosts[0].name]}
		}
		t.Merge(entries, time.Now())
		h.forwarder.SetFIB(routing.NewFIB(t, senders))
	}
}

// Real forwarders, two hops: frames are relayed, answered, and come out on no
// bridge.
func TestMeasureThroughForwarders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := chain(3)
		first, last := hosts[0], hosts[2]
		res, err := first.meter.Measure(t.Context(), last.name, measure.Options{Time: 2 * time.Second, MTU: 1376})
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Highest.Frames; got < 0.8*linkRate || got > 1.05*linkRate {
			t.Errorf("highest = %.0f frames per second, want about %d", got, linkRate)
		}
		if res.Idle.P50 < 4*time.Second/linkRate || res.Loaded.Received == 0 {
			t.Errorf("round trips = %+v, %+v", res.Idle, res.Loaded)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, h := range hosts {
			if len(h.bridge) > 0 {
				t.Errorf("%d frames came out on a bridge: %x", len(h.bridge), h.bridge[0].Data)
			}
			if st := h.forwarder.Stats(); h != first && h != last && st.Relayed.Frames == 0 {
				t.Errorf("the relay did not relay: %+v", st)
			}
		}
	})
}

// What a ping says of the way is true of each answer: the routes change meanwhile.
func TestPingThroughForwarders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := chain(4)
		first, last := hosts[0], hosts[3]
		time.AfterFunc(2500*time.Millisecond, func() {
			route(hosts, func(i, j int) bool { return i == j+1 || j == i+1 || i+j == 3 })
		})
		type step struct{ out, back frame.PeerName }
		var got []step
		o := measure.PingOptions{Count: 5, Interval: time.Second, Timeout: time.Second, Size: 56}
		err := first.meter.Ping(t.Context(), last.name, o, func(try measure.Try) {
			if try.Outcome != measure.Answered || try.RTT < time.Second/linkRate {
				t.Errorf("try = %+v", try)
			}
			got = append(got, step{try.Out.Via, try.Back.Via})
		})
		relayed, direct := step{hosts[1].name, hosts[2].name}, step{last.name, first.name}
		if want := []step{relayed, relayed, relayed, direct, direct}; err != nil || !slices.Equal(got, want) {
			t.Errorf("Ping = %v, ways %v, want %v", err, got, want)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, h := range hosts {
			if len(h.bridge) > 0 {
				t.Errorf("%d frames came out on a bridge: %x", len(h.bridge), h.bridge[0].Data)
			}
		}
	})
}
