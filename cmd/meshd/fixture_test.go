package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/internal/identity"
	"meshd/internal/udp"
	"meshd/nat"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/routing/measure"
	"meshd/routing/signal"
	"meshd/tap"
	"meshd/transport"
)

var update = flag.Bool("update", false, "write golden files")

// now is the moment of all fixtures.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func testName(last byte) frame.PeerName { return 0x020000000000 + frame.PeerName(last) }

func mac(last byte) frame.MAC { return frame.MAC{2, 0, 0, 0, 9, last} }

// healthyReport is weave01 of a mesh of three: weave02 is meshd on the same VLAN,
// weave03 a stock router. A password is set.
func healthyReport() Report {
	sleeve := func(addr string, mtu int, rtt time.Duration, loss float64, tx, rx transport.FlowStats) []transport.PathStats {
		return []transport.PathStats{{
			Transport: "sleeve", Active: true, Tx: tx, Rx: rx,
			State: transport.State{Up: true, MTU: mtu, RTT: rtt, Loss: loss, Addr: netip.MustParseAddrPort(addr), Encrypted: true, Authenticated: true},
		}}
	}
	report := Report{
		Version: "v0.1.0", PID: 4711, Started: now.Add(-time.Hour),
		Mesh: control.Snapshot{
			Self:        control.PeerSnapshot{Name: testName(1), NickName: "weave01", UID: 11, Version: 5, ShortID: 101, HasShortID: true},
			MinProtocol: 1, MaxProtocol: 2, Encrypted: true, Discovery: true, Port: 6783, ConnLimit: 200,
			Targets: []control.TargetSnapshot{{Target: "10.142.130.17", Addresses: addrs("10.142.130.17:6783")}},
			Peers: []control.PeerSnapshot{
				{Name: testName(1), NickName: "weave01", UID: 11, Version: 5, ShortID: 101, HasShortID: true, Connections: []control.PeerConnection{
					{Name: testName(2), NickName: "weave02", Address: "10.142.130.17:6783", Outbound: true, Established: true},
					{Name: testName(3), NickName: "weave03", Address: "10.107.153.153:40022", Established: true},
				}},
				{Name: testName(2), NickName: "weave02", UID: 22, Version: 3, ShortID: 102, HasShortID: true, Connections: []control.PeerConnection{
					{Name: testName(1), NickName: "weave01", Address: "10.142.130.16:51234", Established: true},
				}},
				{Name: testName(3), NickName: "weave03", UID: 33, Version: 2, Connections: []control.PeerConnection{
					{Name: testName(1), NickName: "weave01", Address: "10.142.130.16:6783", Outbound: true, Established: true},
				}},
			},
			Connections: []control.ConnectionSnapshot{
				{
					Address: "10.142.130.17:6783", Carrier: control.CarrierTCP, Outbound: true, State: control.StateEstablished,
					Name: testName(2), NickName: "weave02", UID: 22, Native: true, Version: 2, Encrypted: true,
					Since: now.Add(-time.Hour), TCPRTT: 700 * time.Microsecond, MTU: 1414, Transport: "sleeve",
					Paths: sleeve("10.142.130.17:6783", 1414, 430*time.Microsecond, 0,
						transport.FlowStats{Frames: 1200, Bytes: 1_500_000, Datagrams: 900},
						transport.FlowStats{Frames: 800, Bytes: 64_000, Datagrams: 800, Drops: map[string]uint64{"auth": 2, "replay": 1}}),
				},
				{
					Address: "10.107.153.153:40022", Carrier: control.CarrierTCP, State: control.StateEstablished,
					Name: testName(3), NickName: "weave03", UID: 33, Version: 2, Encrypted: true,
					Since: now.Add(-time.Minute), TCPRTT: 1830 * time.Microsecond, MTU: 1414, Transport: "sleeve",
					Paths: sleeve("10.107.153.153:6783", 1414, 0, -1,
						transport.FlowStats{Frames: 3, Bytes: 180, Datagrams: 9}, transport.FlowStats{}),
				},
			},
			Unicast: []control.UnicastRoute{
				{Dest: testName(1)}, {Dest: testName(2), Via: testName(2)}, {Dest: testName(3), Via: testName(3)},
			},
			Broadcast: []control.BroadcastRoute{
				{Source: testName(1), Via: []frame.PeerName{testName(2), testName(3)}},
				{Source: testName(2), Via: []frame.PeerName{testName(3)}},
				{Source: testName(3), Via: []frame.PeerName{testName(2)}},
			},
			Terminations: 1,
		},
		MACs: []routing.MACEntry{
			{MAC: mac(1), Peer: testName(1), LastSeen: now.Add(-2 * time.Second)},
			{MAC: mac(2), Peer: testName(2), LastSeen: now.Add(-5 * time.Minute)},
		},
		MACTable: routing.MACStats{Entries: 2, Moves: 1},
		Forwarder: routing.Stats{
			FromPort: routing.Count{Frames: 1203, Bytes: 1_500_180}, ToPort: routing.Count{Frames: 800, Bytes: 64_000},
			Drops: map[string]uint64{"too-big": 4, "no-route": 0},
		},
		Port: PortReport{
			Device: "meshd0", Bridge: "weave", Backend: "offload", MTU: 1376, Offload: tap.Offload{On: true, Features: []string{"csum", "tso4", "tso6"}, Why: "the kernel has no USO"},
			State: tap.State{Joined: true, Since: now.Add(-time.Hour)},
			Stats: tap.Stats{Read: tap.Count{Frames: 1203, Bytes: 1_500_180}, Written: tap.Count{Frames: 800, Bytes: 64_000}},
		},
		Transports: []TransportReport{{Name: "sleeve", Listen: ":6783", Sockets: []SocketReport{
			{Address: netip.MustParseAddrPort("0.0.0.0:6783"), Offload: udp.Offload{GSO: true, GRO: true}},
			{Address: netip.MustParseAddrPort("[::]:6783"), Offload: udp.Offload{GSO: true, Why: "runs were mangled"}},
		}}},
		StrayDrops: map[string]uint64{"malformed": 7, "unknown-peer": 1},
		Config:     ConfigReport{File: "/etc/meshd.yaml", PasswordBits: 80},
		Trust:      TrustReport{Identity: testKey(1), Pins: []identity.Pin{{Name: testName(2), NickName: "weave02", Key: testKey(2), Since: now.Add(-24 * time.Hour)}}},
	}
	key := testKey(2)
	report.Mesh.Connections[0].Key, report.Mesh.Connections[0].Authentication = &key, control.ByPassword
	report.Mesh.Connections[1].Authentication = control.ByPassword
	native, stock := &report.Mesh.Connections[0].Paths[0], &report.Mesh.Connections[1].Paths[0]
	native.State.MinRTT, native.Handshakes = 310*time.Microsecond, 2
	native.TxRate, native.RxRate = &transport.Rate{Frames: 1042, Bits: 11_460_000}, &transport.Rate{Frames: 96.5, Bits: 61_440}
	stock.Handshakes = 1
	return report
}

// testKey is the public key of a host of the fixtures.
func testKey(host byte) identity.Key { return identity.Key{host, 5: 0xa5} }

// openReport is a mesh without a password: weave02 over punch, which is encrypted
// all the same, and a stock router. Offloads are off.
func openReport() Report {
	r := healthyReport()
	r.Mesh.Encrypted = false
	for i := range r.Mesh.Connections {
		r.Mesh.Connections[i].Encrypted = false
		r.Mesh.Connections[i].Authentication = control.ByNothing
		r.Mesh.Connections[i].Paths[0].State.Authenticated = false
	}
	native, stock := &r.Mesh.Connections[0], &r.Mesh.Connections[1]
	standby := native.Paths[0]
	standby.Active, standby.State.Encrypted = false, false
	native.Transport, native.MTU = "punch", 1430
	native.Paths[0].Transport, native.Paths[0].State.MTU, native.Paths[0].Rekeys = "punch", 1430, 31
	standby.TxRate, standby.RxRate = &transport.Rate{}, &transport.Rate{}
	native.Paths[0].State.Addr = netip.MustParseAddrPort("10.142.130.17:6785")
	native.Paths = append(native.Paths, standby)
	stock.Paths[0].State.Encrypted = false
	r.Port.Backend, r.Port.Offload = "portable", tap.Offload{Why: "off by tap.offload"}
	off := udp.Offload{Why: "off by udp.offload"}
	socket := func(addr string) []SocketReport {
		return []SocketReport{{Address: netip.MustParseAddrPort(addr), Offload: off}}
	}
	r.Transports = []TransportReport{
		{Name: "punch", Listen: ":6785", Sockets: socket("0.0.0.0:6785")},
		{Name: "sleeve", Listen: ":6783", Sockets: socket("0.0.0.0:6783")},
	}
	r.Config.PasswordBits = 0
	return r
}

// relayedReport is openReport where direct ways were looked for: that to
// weave02 was found, weave04 is relayed by it, and so is weave05, which is new.
func relayedReport() Report {
	r := openReport()
	m := &r.Mesh
	for _, n := range []byte{4, 5} {
		m.Peers = append(m.Peers, control.PeerSnapshot{Name: testName(n), NickName: fmt.Sprintf("weave0%d", n), UID: 11 * uint64(n), Version: 1})
		m.Unicast = append(m.Unicast, control.UnicastRoute{Dest: testName(n), Via: testName(2)})
	}
	m.Connections = append(m.Connections, control.ConnectionSnapshot{
		Address: "203.0.113.18:6783", Outbound: true, State: control.StateFailed, Err: "i/o timeout", NextTry: now.Add(20 * time.Second), For: testName(4),
	})
	at := func(kind nat.CandidateKind, addr string) nat.Candidate {
		return nat.Candidate{Kind: kind, Addr: netip.MustParseAddrPort(addr)}
	}
	hard := nat.Brief{Mapping: nat.AddressPortDependent, Filtering: nat.UnknownFiltering}
	local := []nat.Candidate{at(nat.Host, "192.168.11.2:6785"), at(nat.Reflexive, "203.0.113.7:31337")}
	pair := at(nat.Observed, "10.142.130.17:6785")
	r.Traversal = &TraversalReport{
		Peers: map[frame.PeerName]nat.Status{
			testName(2): {Known: true, Pair: pair.Addr, Tries: []nat.Try{
				{At: now.Add(-time.Hour), Local: local, Remote: []nat.Candidate{at(nat.Host, "192.168.13.2:6785"), pair}, Pair: pair},
			}},
			testName(4): {Known: true, Leads: true, Since: now.Add(-5 * time.Minute), Tries: []nat.Try{
				{At: now.Add(-4 * time.Minute), Local: local[:1], Err: signal.ErrSilent.Error()},
				{
					At: now.Add(-3 * time.Minute), Led: true, Local: local, Err: nat.ErrNoPair.Error(), Theirs: [2]nat.Brief{hard, {}},
					Remote: []nat.Candidate{
						at(nat.Host, "192.168.12.2:6785"), at(nat.Host, "192.168.12.3:6785"), at(nat.Reflexive, "203.0.113.18:14032"),
						at(nat.Observed, "203.0.113.18:6785"), at(nat.Discovered, "203.0.113.18:14033"),
					},
				},
			}},
			testName(5): {Known: true, Leads: true, Since: now.Add(-10 * time.Second), Active: true},
		},
		Behaviours: [2]nat.Behaviour{{Mapping: nat.AddressPortDependent, Answers: []nat.Answer{{Server: "weave02"}}}, {}},
		STUN:       nat.Counts{Answered: 12, Malformed: 1, Unasked: 2, Forged: 3, Excess: 4, Refused: 5, Unspent: 6},
		Signalling: signal.Counts{Forged: 1, Replayed: 2, Refused: 3, Excess: 4},
	}
	return r
}

// brokenReport has about everything wrong at once.
func brokenReport() Report {
	r := healthyReport()
	m := &r.Mesh
	m.Encrypted = false
	m.Targets = append(m.Targets,
		control.TargetSnapshot{Target: "10.0.0.9", Addresses: addrs("10.0.0.9:6783")},
		control.TargetSnapshot{Target: "weave09.example.net", Err: "no such host"},
	)
	down := &m.Connections[0]
	down.State, down.Transport, down.MTU = control.StatePending, "", 0
	down.Paths[0].Active = false
	down.Paths[0].State = transport.State{Loss: -1, Why: "no heartbeat was answered"}
	stock := &m.Connections[1]
	stock.Unsessioned = true
	stock.MTU, stock.Paths[0].State.MTU, stock.Paths[0].State.Encrypted, stock.Paths[0].State.Authenticated = 1200, 1200, false, false
	m.Connections = append(m.Connections,
		control.ConnectionSnapshot{Address: "10.0.0.9:6783", Outbound: true, State: control.StateFailed, Err: "connection refused", NextTry: now.Add(4 * time.Second)},
		control.ConnectionSnapshot{Address: "10.0.0.7:6783", Outbound: true, State: control.StateFailed, Err: "no route to host", NextTry: now.Add(5 * time.Minute)},
	)
	m.Peers = append(m.Peers, control.PeerSnapshot{Name: testName(4), NickName: "weave\x1b[31m04"})
	r.MACs[0].Flapping = true
	r.Port.State = tap.State{Why: "the bridge weave does not exist and is not to be made", Since: now}
	r.Config.HTTP = "0.0.0.0:6784"
	return r
}

func addrs(list ...string) []netip.AddrPort { return each(list, netip.MustParseAddrPort) }

// fakeDaemon is a daemon of fixed state that records what it was asked to do.
type fakeDaemon struct {
	mu      sync.Mutex // guards all below
	report  Report
	targets []string
	replace bool
	stopped chan struct{} // closed by Stop
	reason  Why
	nats    NATReport
	fail    error         // what Connect, Forget, Reload, Bench and Ping answer
	hang    chan struct{} // not nil: Bench and Ping send when they begin and when they end
	pings   measure.PingOptions
	tries   []measure.Try // that Ping reports before it hangs
}

func newFakeDaemon(r Report) *fakeDaemon { return &fakeDaemon{report: r, stopped: make(chan struct{})} }

func (d *fakeDaemon) Report() Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.report
}

func (d *fakeDaemon) Connect(targets []string, replace bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.targets, d.replace = targets, replace
	}
	return d.fail
}

func (d *fakeDaemon) Forget(targets []string) error { return d.Connect(targets, false) }

func (d *fakeDaemon) ForgetKey(peer frame.PeerName) (identity.Pin, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.report.Trust.Pins, func(p identity.Pin) bool { return p.Name == peer })
	if i < 0 {
		return identity.Pin{}, errRefused
	}
	pin := d.report.Trust.Pins[i]
	d.report.Trust.Pins = slices.Delete(slices.Clone(d.report.Trust.Pins), i, i+1)
	return pin, nil
}

// UseTransport records a choice as "PEER TRANSPORT".
func (d *fakeDaemon) UseTransport(peer frame.PeerName, name string) error {
	return d.Connect([]string{peer.String() + " " + name}, false)
}

func (d *fakeDaemon) Reload() (applied, needRestart []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return nil, nil, d.fail
	}
	return []string{"peers: [] -> [a]"}, []string{"listen: :6783 -> :6784"}, nil
}

// Bench measures nothing, and with hang it takes until ctx is done.
func (d *fakeDaemon) Why(frame.PeerName) (Why, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reason, d.fail
}

func (d *fakeDaemon) NAT(context.Context) (NATReport, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nats, d.fail
}

func (d *fakeDaemon) Bench(ctx context.Context, peer frame.PeerName, duration time.Duration) (Bench, error) {
	if d.hang != nil {
		d.hang <- struct{}{}
		<-ctx.Done()
		d.hang <- struct{}{}
		return Bench{}, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return Bench{}, d.fail
	}
	w, err := wayTo(d.report.Mesh, peer)
	return newBench(measured(duration), w, w), err
}

// Ping reports tries, and with hang it takes until ctx is done.
func (d *fakeDaemon) Ping(ctx context.Context, peer frame.PeerName, o measure.PingOptions, report func(Pong)) error {
	d.mu.Lock()
	m, fail, hang := d.report.Mesh, d.fail, d.hang
	d.pings = o
	d.mu.Unlock()
	if err := pingable(m, peer); err != nil || fail != nil {
		return errors.Join(err, fail)
	}
	names := nickNames{of: func() map[frame.PeerName]string { return nickNamesOf(m) }}
	for _, t := range d.tries {
		report(newPong(t, peer, m.Self.Name, &names))
	}
	if hang != nil {
		hang <- struct{}{}
		<-ctx.Done()
		hang <- struct{}{}
		return ctx.Err()
	}
	return nil
}

// measured is a result of a fixed measurement.
func measured(d time.Duration) measure.Result {
	return measure.Result{
		FrameBytes: 1390, Took: d, Limit: measure.LimitPath,
		Highest: measure.Rate{Frames: 356_000, Bits: 356_000 * 1390 * 8},
		Held:    measure.Held{Sent: 800_000, Received: 799_800, Bytes: 799_800 * 1390, OutOfOrder: 12, Time: 2500 * time.Millisecond},
		Idle:    measure.RTT{Sent: 25, Received: 25, P50: 210 * time.Microsecond, P99: 480 * time.Microsecond},
		Loaded:  measure.RTT{Sent: 250, Received: 249, P50: 440 * time.Microsecond, P99: 1900 * time.Microsecond},
	}
}

func (d *fakeDaemon) Stop() { close(d.stopped) }

func (d *fakeDaemon) asked() ([]string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.targets, d.replace
}

// golden compares got with a file in testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n--- got\n%s\n--- want\n%s", name, got, want)
	}
}

// runCLI runs one command line and returns what it printed and its exit code.
func runCLI(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var out, errs strings.Builder
	code = execute(ctx, args, &out, &errs)
	return out.String(), errs.String(), code
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var errRefused = errors.New("refused for a test")
