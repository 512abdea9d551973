package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"meshd/internal/lab"
)

// seed is MESHD_SEED or another one each time; it is printed.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("MESHD_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("MESHD_SEED: %v", err)
		}
	}
	t.Logf("MESHD_SEED=%d repeats this run", n)
	return n
}

// graph has an edge {i, j}, i < j, where two hosts are neighbours.
type graph map[[2]int]bool

// randomGraph is connected: a random tree with some more edges.
func randomGraph(r *rand.Rand, nodes int) graph {
	g := graph{}
	for i := 1; i < nodes; i++ {
		g[[2]int{r.IntN(i), i}] = true
	}
	for range r.IntN(nodes) {
		i, j := r.IntN(nodes), r.IntN(nodes)
		if i != j {
			g[[2]int{min(i, j), max(i, j)}] = true
		}
	}
	return g
}

func (g graph) String() string {
	var edges []string
	for e := range g {
		edges = append(edges, fmt.Sprintf("%d-%d", e[0]+1, e[1]+1))
	}
	slices.Sort(edges)
	return strings.Join(edges, " ")
}

// startAs starts the hosts so that they connect as the graph says and in no
// other way, and waits until they have.
func (w *world) startAs(g graph, hosts []*host) {
	w.Helper()
	for j, h := range hosts {
		var targets []string
		for i := range hosts {
			if g[[2]int{i, j}] {
				targets = append(targets, hosts[i].addr())
			}
		}
		h.Args = []string{"--discovery=false"}
		h.start(targets...)
	}
	w.connectedAs(g, hosts)
}

func (w *world) connectedAs(g graph, hosts []*host) {
	w.Helper()
	w.eventually("topology "+g.String(), func(ctx context.Context) error {
		for j := range hosts {
			for i := range j {
				err := errors.Join(hosts[i].Neighbours(ctx, hosts[j].Peer), hosts[j].Neighbours(ctx, hosts[i].Peer))
				if want := g[[2]int{i, j}]; want && err != nil {
					return err
				} else if !want && err == nil {
					return lab.Final(fmt.Errorf("%s and %s are neighbours", hosts[i].NickName, hosts[j].NickName))
				}
			}
		}
		return nil
	})
	w.reach(hosts...)
}

// TestBroadcastOnce: on random topologies a broadcast of any host reaches each
// other host exactly once, also after a host was lost and has returned.
//
//	weave01 … weave05, all on one LAN, connected at random, discovery off
func TestBroadcastOnce(t *testing.T) {
	t.Parallel()
	const nodes, graphs = 5, 3
	r := rand.New(rand.NewPCG(seed(t), 1))
	w := newWorld(t)
	lan := w.lan("lan")
	var hosts []*host
	for i := range nodes {
		hosts = append(hosts, w.host(fmt.Sprintf("weave%02d", i+1), lan.at(fmt.Sprintf("10.0.0.%d/24", i+1))))
	}
	var boxes []*box
	for n := range graphs {
		g := randomGraph(r, nodes)
		w.startAs(g, hosts)
		if n == 0 {
			boxes = w.boxes(hosts...)
		}
		w.answers(boxes...)
		w.broadcastOnce(fmt.Sprintf("graph %d", n), boxes)

		victim := r.IntN(nodes)
		var others []*host
		for i, h := range hosts {
			if i != victim {
				others = append(others, h)
			}
		}
		w.Logf("%s is killed and returns", hosts[victim].NickName)
		hosts[victim].kill()
		w.lost(hosts[victim], others...)
		hosts[victim].again()
		w.connectedAs(g, hosts)
		w.answers(boxes...)
		w.broadcastOnce(fmt.Sprintf("graph %d, after the return", n), boxes)
		for _, h := range hosts {
			h.kill()
		}
	}
}

// broadcastOnce sends broadcasts from every container and counts them at every
// other.
func (w *world) broadcastOnce(what string, boxes []*box) {
	w.Helper()
	hosts := make([]*host, len(boxes))
	for i, b := range boxes {
		hosts[i] = b.host
	}
	w.settled(hosts...)
	const each = 5
	label := "broadcast, " + what + ", "
	captures := make([]*lab.Capture, len(boxes))
	for i, b := range boxes {
		captures[i] = b.capture(label)
		defer captures[i].Close()
	}
	text := func(from, n int) string { return fmt.Sprintf("%sfrom %d, number %d.", label, from, n) }
	for n := range each {
		for i, b := range boxes {
			b.send(frame(broadcast, b.mac(), 0, text(i, n)))
		}
	}
	for i, c := range captures {
		w.captured(fmt.Sprintf("broadcasts at %s", boxes[i].host.NickName), c, each*(len(boxes)-1))
	}
	// What might still be under way passes before these do, hop by hop.
	for range boxes {
		w.answers(boxes...)
	}
	for i, c := range captures {
		for from := range boxes {
			for n := range each {
				want := 1
				if from == i {
					want = 0 // nobody hears their own broadcast
				}
				got := c.Count(func(f []byte) bool { return bytes.Contains(f, []byte(text(from, n))) })
				if got != want {
					w.Errorf("%s: %q arrived %d times at %s, want %d", what, text(from, n), got, boxes[i].host.NickName, want)
				}
			}
		}
	}
}
