package main

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"meshd/routing"
	"meshd/routing/control"
	"meshd/tap"
	"meshd/transport"
)

// scrapesDir is set by integration/dashboard.
var scrapesDir = flag.String("scrapes", "", "folder that TestScrapes writes metrics to")

// TestScrapes writes what Prometheus would get of two daemons, twice: of one where
// all is well, and of one where about everything that can be counted happens.
func TestScrapes(t *testing.T) {
	if *scrapesDir == "" {
		t.Skip("nobody wants them: make dashboard does")
	}
	for name, r := range map[string]Report{
		"well-0": healthyReport(), "well-1": later(healthyReport(), false),
		"harmed-0": harmedReport(), "harmed-1": later(harmedReport(), true),
	} {
		if err := os.WriteFile(filepath.Join(*scrapesDir, name+".txt"), []byte(scrape(t, r)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// harmedReport is an open mesh where one peer cannot be reached, others are relayed,
// punch does not work to another, and frames are dropped for every reason.
func harmedReport() Report {
	r := relayedReport()
	m := &r.Mesh
	m.Peers = append(m.Peers, control.PeerSnapshot{Name: testName(6), NickName: "weave06"})
	fallen := m.Connections[0]
	fallen.Name, fallen.NickName, fallen.Transport = testName(7), "weave07", "sleeve"
	fallen.Carrier, fallen.Switches, fallen.SwitchReason = control.CarrierQUIC, 3, "punch: silent: no datagram from the neighbour"
	standby := fallen.Paths[1]
	standby.Active = true
	standby.State.Addr = netip.MustParseAddrPort("10.142.130.19:6783")
	standby.Rank = 3
	fallen.Paths = []transport.PathStats{{
		Transport: "punch", Rank: 1, State: transport.State{Loss: 1, Why: "silent: no datagram from the neighbour"},
	}, standby}
	m.Connections = append(m.Connections, fallen)
	all := map[string]uint64{}
	for d := transport.Drop(0); d.String() != "unknown"; d++ {
		all[d.String()] = 1 + uint64(d)
	}
	for i := range m.Connections {
		for j := range m.Connections[i].Paths {
			m.Connections[i].Paths[j].Tx.Drops, m.Connections[i].Paths[j].Rx.Drops = all, all
		}
	}
	r.Port.Stats.Drops = map[string]uint64{"queue-full": 3}
	r.Forwarder.Drops = map[string]uint64{"too-big": 4, "no-route": 2}
	r.Port.State = tap.State{Why: "the bridge weave does not exist and is not to be made", Since: now}
	r.StrayDrops = all
	return r
}

// later is r after a while in which everything moved on, drops if they are wanted.
func later(r Report, drops bool) Report {
	more := func(m map[string]uint64) map[string]uint64 {
		if !drops {
			return m
		}
		out := map[string]uint64{}
		for k, n := range m {
			out[k] = 2 * n
		}
		return out
	}
	flow := func(f *transport.FlowStats) {
		f.Frames, f.Bytes, f.Datagrams, f.Drops = 2*f.Frames, 2*f.Bytes, 2*f.Datagrams, more(f.Drops)
	}
	for i := range r.Mesh.Connections {
		r.Mesh.Connections[i].Switches *= 2
		for j := range r.Mesh.Connections[i].Paths {
			p := &r.Mesh.Connections[i].Paths[j]
			flow(&p.Tx)
			flow(&p.Rx)
			p.Handshakes, p.Rekeys = 2*p.Handshakes, 2*p.Rekeys
		}
	}
	count := func(c *routing.Count) { c.Frames, c.Bytes = 2*c.Frames, 2*c.Bytes }
	count(&r.Forwarder.FromPort)
	count(&r.Forwarder.ToPort)
	r.Port.Stats.Read.Frames, r.Port.Stats.Read.Bytes = 2*r.Port.Stats.Read.Frames, 2*r.Port.Stats.Read.Bytes
	r.Port.Stats.Drops, r.Forwarder.Drops, r.StrayDrops = more(r.Port.Stats.Drops), more(r.Forwarder.Drops), more(r.StrayDrops)
	if t := r.Traversal; t != nil && drops {
		t.STUN.Answered, t.STUN.Forged = 2*t.STUN.Answered, 2*t.STUN.Forged
		t.Signalling.Forged *= 2
	}
	r.Mesh.Terminations *= 2
	r.MACTable.Moves *= 2
	r.Started = r.Started.Add(-time.Minute)
	return r
}
