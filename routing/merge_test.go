package routing

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/internal/frame"
)

// decodeTopology reads a payload of channel topology. routing/control has the
// codec of the daemon; this one is for vectors.
func decodeTopology(t *testing.T, payload string) []Peer {
	t.Helper()
	b, err := hex.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var entries []Peer
	for dec := gob.NewDecoder(bytes.NewReader(b)); ; {
		var p struct {
			NameByte     []byte
			NickName     string
			UID, Version uint64
			ShortID      uint16
			HasShortID   bool
		}
		var conns []struct {
			NameByte              []byte
			RemoteTCPAddr         string
			Outbound, Established bool
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return entries
		} else if err != nil {
			t.Fatal(err)
		}
		if err := dec.Decode(&conns); err != nil {
			t.Fatal(err)
		}
		e := Peer{Name: frame.PeerNameOf(p.NameByte), NickName: p.NickName, UID: p.UID,
			Version: p.Version, ShortID: p.ShortID, HasShortID: p.HasShortID}
		for _, c := range conns {
			e.Connections = append(e.Connections, Connection{frame.PeerNameOf(c.NameByte), c.RemoteTCPAddr, c.Outbound, c.Established})
		}
		entries = append(entries, e)
	}
}

// record is an entry as a stock router reports it.
type record struct {
	Name        string
	NickName    string
	UID         uint64
	Version     uint64
	ShortID     uint16
	Connections []string `json:"connections"`
}

func recordOf(top *Topology, name frame.PeerName) record {
	p, _ := top.Peer(name)
	r := record{Name: p.Name.String(), NickName: p.NickName, UID: p.UID, Version: p.Version, ShortID: p.ShortID, Connections: []string{}}
	for _, c := range p.Connections {
		r.Connections = append(r.Connections, fmt.Sprintf("%v established=%v", c.Peer, c.Established))
	}
	return r
}

// TestMergeLikeStockRouter feeds the payloads that were sent to a stock router
// and compares the record it had afterwards.
func TestMergeLikeStockRouter(t *testing.T) {
	b, err := os.ReadFile("testdata/topology-merge.json")
	if err != nil {
		t.Fatal(err)
	}
	var vector struct {
		Receiver, Sender  frame.PeerName
		PlaceholderBefore record `json:"placeholder_before"`
		Steps             []struct {
			What    string
			Payload string
			After   record `json:"record_after"`
		}
		Collision struct {
			Before      record `json:"receiver_before"`
			AfterHigher record `json:"receiver_after_higher_name_collides"`
			AfterLower  record `json:"receiver_after_lower_name_collides"`
		} `json:"short_id_collision"`
	}
	if err := json.Unmarshal(b, &vector); err != nil {
		t.Fatal(err)
	}
	if len(vector.Steps) != 14 {
		t.Fatalf("%d steps, want 14", len(vector.Steps))
	}
	before := vector.Collision.Before
	top := NewTopology(Peer{Name: vector.Receiver, NickName: before.NickName, UID: before.UID,
		ShortID: before.ShortID, HasShortID: true}, seeded(1))
	top.SetConnection(Connection{Peer: vector.Sender})
	top.SetConnection(Connection{Peer: vector.Sender, Established: true})
	first := mustName(t, vector.PlaceholderBefore.Name)
	top.Merge([]Peer{{Name: vector.Sender, UID: 9, Version: 2, Connections: both(vector.Receiver, first)}}, start)
	if got := recordOf(top, first); !reflect.DeepEqual(got, vector.PlaceholderBefore) {
		t.Errorf("placeholder = %+v, want %+v", got, vector.PlaceholderBefore)
	}

	for _, s := range vector.Steps {
		was := top.Self().Version
		m := top.Merge(decodeTopology(t, s.Payload), start)
		if got := recordOf(top, mustName(t, s.After.Name)); !reflect.DeepEqual(got, s.After) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", s.What, got, s.After)
		}
		if got := top.Self().Version != was; got != m.SelfChanged {
			t.Errorf("%s: SelfChanged = %v, but our version changed: %v", s.What, m.SelfChanged, got)
		}
		taken := strings.HasSuffix(s.What, "taken") || strings.Contains(s.What, "first real record") || strings.HasPrefix(s.What, "peer with a")
		if got := len(m.Improved) == 1; got != taken {
			t.Errorf("%s: Improved = %v", s.What, m.Improved)
		}
		if strings.HasPrefix(s.What, "peer with a higher name") {
			if got := recordOf(top, vector.Receiver); !reflect.DeepEqual(got, vector.Collision.AfterHigher) {
				t.Errorf("%s: receiver = %+v, want %+v", s.What, got, vector.Collision.AfterHigher)
			}
		}
		checkInvariants(t, top)
	}
	// The new short ID is random; the rest is not.
	got, want := recordOf(top, vector.Receiver), vector.Collision.AfterLower
	if got.ShortID == before.ShortID {
		t.Errorf("short ID %d stayed with the higher name", got.ShortID)
	}
	if got.ShortID = want.ShortID; !reflect.DeepEqual(got, want) {
		t.Errorf("receiver after losing its short ID = %+v, want %+v", got, want)
	}
}

func TestMergeResult(t *testing.T) {
	a, b, c, d := peerName(1), peerName(2), peerName(3), peerName(4)
	top := NewTopology(Peer{Name: a, UID: 1}, seeded(1))
	m := top.Merge([]Peer{
		{Name: c, UID: 3, Version: 1, Connections: both(d, b)}, // ends in any order
		{Name: b, UID: 2, Version: 1},
		{Name: b, UID: 2, Version: 2},
		{Name: a, UID: 1, Version: 0},
	}, start)
	if want := []frame.PeerName{b, c}; !slices.Equal(m.Improved, want) {
		t.Errorf("Improved = %v, want %v", m.Improved, want)
	}
	if want := []frame.PeerName{a, b, c}; !slices.Equal(m.All, want) {
		t.Errorf("All = %v, want %v", m.All, want)
	}
	if p, ok := top.Peer(d); !ok || p.UID != 0 {
		t.Errorf("Peer(d) = %+v, %v; want a placeholder", p, ok)
	}
	if p, _ := top.Peer(c); !slices.Equal(ends(p), []frame.PeerName{b, d}) {
		t.Errorf("connections of c = %v, want them sorted", p.Connections)
	}
	m = top.Merge([]Peer{{Name: b, UID: 2, Version: 1}}, start)
	if len(m.Improved) != 0 || !slices.Equal(m.All, []frame.PeerName{b}) {
		t.Errorf("old entry: %+v, want nothing improved, b in All", m)
	}
	checkInvariants(t, top)
}

// TestMergeOutdated: an ignored entry of another incarnation, or a placeholder, is
// one that its sender should be put right about; whatever else is ignored is not.
func TestMergeOutdated(t *testing.T) {
	self, peer := peerName(1), peerName(2)
	for _, tt := range []struct {
		name string
		e    Peer
		want bool
	}{
		{"other incarnation, lower version", Peer{Name: peer, UID: 9, Version: 4}, true},
		{"other incarnation, same version, lower UID", Peer{Name: peer, UID: 1, Version: 5}, true},
		{"other incarnation, same version, higher UID", Peer{Name: peer, UID: 9, Version: 5}, false},
		{"placeholder", Peer{Name: peer}, true},
		{"same incarnation, lower version", Peer{Name: peer, UID: 5, Version: 4}, false},
		{"same entry", Peer{Name: peer, UID: 5, Version: 5}, false},
		{"newer entry", Peer{Name: peer, UID: 5, Version: 6}, false},
		{"unknown peer", Peer{Name: peerName(3), UID: 1, Version: 1}, false},
		{"ours, another incarnation's, older", Peer{Name: self, UID: 9, Version: 6}, true},
		{"ours, another incarnation's, newer", Peer{Name: self, UID: 9, Version: 7}, false},
		{"ours", Peer{Name: self, UID: 8, Version: 1}, false},
		{"absurd", Peer{Name: peer, UID: 9, Version: 1<<64 - 1}, false},
	} {
		top := NewTopology(Peer{Name: self, UID: 8, Version: 7}, seeded(1))
		top.Merge([]Peer{{Name: peer, UID: 5, Version: 5}}, start)
		m := top.Merge([]Peer{tt.e}, start)
		var want []frame.PeerName
		if tt.want {
			want = []frame.PeerName{tt.e.Name}
		}
		if !slices.Equal(m.Outdated, want) {
			t.Errorf("%s: Outdated = %v, want %v", tt.name, m.Outdated, want)
		}
	}
}

// TestRestartIsSettled: holders of any incarnations of a peer, connected at random
// and heard in any order, all end up with the entry of the one that lives, and stop
// talking, by nothing but the rules of Merge.
func TestRestartIsSettled(t *testing.T) {
	for seed := range uint64(300) {
		rng := seeded(seed)
		hosts := make([]*Topology, 3+rng.IntN(5)) // the first one is the peer itself
		for i := range hosts {
			hosts[i] = NewTopology(Peer{Name: peerName(i + 1), UID: rng.Uint64() | 1}, rng)
		}
		peer := hosts[0]
		peer.self.Version = rng.Uint64N(4)
		for _, h := range hosts[1:] {
			if rng.IntN(3) > 0 {
				h.Merge([]Peer{{Name: peer.self.Name, UID: rng.Uint64() | 1, Version: rng.Uint64N(4)}}, start)
			}
		}
		talk(t, seed, rng, hosts)
		for i, h := range hosts {
			got, _ := h.Peer(peer.self.Name)
			if want := peer.Self(); got.UID != want.UID || got.Version != want.Version {
				t.Errorf("seed %d: host %d holds %d version %d, want %d version %d", seed, i, got.UID, got.Version, want.UID, want.Version)
			}
		}
	}
}

// talk has the first host tell its neighbours in a random tree of its entry, and
// all pass on, answer and outbid until nobody has more to say.
func talk(t *testing.T, seed uint64, rng *rand.Rand, hosts []*Topology) {
	t.Helper()
	peer := hosts[0].self.Name
	near := make([][]int, len(hosts))
	for j := 1; j < len(hosts); j++ {
		i := rng.IntN(j)
		near[i], near[j] = append(near[i], j), append(near[j], i)
	}
	type message struct {
		from, to int
		e        Peer
	}
	var wire []message
	tell := func(from int, to ...int) {
		e, _ := hosts[from].Peer(peer)
		for _, i := range to {
			wire = append(wire, message{from, i, e})
		}
	}
	tell(0, near[0]...)
	for n := 0; len(wire) > 0; n++ {
		if n > 1000 {
			t.Fatalf("seed %d: they talk without end", seed)
		}
		i := rng.IntN(len(wire))
		msg := wire[i]
		wire = slices.Delete(wire, i, i+1)
		switch m := hosts[msg.to].Merge([]Peer{msg.e}, start); {
		case m.SelfChanged:
			tell(msg.to, near[msg.to]...)
		case len(m.Outdated) > 0:
			tell(msg.to, msg.from)
		case len(m.Improved) > 0:
			tell(msg.to, slices.DeleteFunc(slices.Clone(near[msg.to]), func(i int) bool { return i == msg.from })...)
		}
	}
}

// TestFirstVersion: a later incarnation starts above whatever an earlier one can
// have counted to, every other host believes it, and there is one without a clock.
func TestFirstVersion(t *testing.T) {
	if got, want := FirstVersion(start.Add(2*time.Second)), FirstVersion(start)+2000; got != want {
		t.Errorf("FirstVersion 2 s later = %d, want %d", got, want)
	}
	far := time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)
	if got, ceiling := FirstVersion(far), versionCeiling(time.Unix(0, 0)); got >= ceiling {
		t.Errorf("FirstVersion(%v) = %d, which a host without a clock refuses above %d", far, got, ceiling)
	}
	if got := FirstVersion(time.Unix(-5, 0)); got != 0 {
		t.Errorf("FirstVersion(1969) = %d, want 0", got)
	}
}

// TestMergeBorrows: the entries stay the caller's.
func TestMergeBorrows(t *testing.T) {
	top := NewTopology(Peer{Name: peerName(1), UID: 1}, seeded(1))
	entries := []Peer{{Name: peerName(2), UID: 2, Version: 1, Connections: both(peerName(4), peerName(3))}}
	top.Merge(entries, start)
	if got := ends(entries[0]); !slices.Equal(got, []frame.PeerName{peerName(4), peerName(3)}) {
		t.Errorf("Merge sorted the caller's connections: %v", got)
	}
	entries[0].Connections[0].Peer = peerName(77)
	if p, _ := top.Peer(peerName(2)); slices.Contains(ends(p), peerName(77)) {
		t.Error("the topology shares memory with the caller")
	}
}

func TestMergeRefuses(t *testing.T) {
	long := strings.Repeat("x", 256)
	other := func(change func(*Peer)) Peer {
		p := Peer{Name: peerName(2), UID: 2, Version: 1, Connections: both(peerName(3))}
		change(&p)
		return p
	}
	var crowd []frame.PeerName
	for i := range MaxConnections + 1 {
		crowd = append(crowd, peerName(10+i))
	}
	tests := []struct {
		name  string
		entry Peer
	}{
		{"no name", other(func(p *Peer) { p.Name = 0 })},
		{"name of more than 48 bits", other(func(p *Peer) { p.Name = 1 << 48 })},
		{"long nickname", other(func(p *Peer) { p.NickName = long })},
		{"long address", other(func(p *Peer) { p.Connections[0].RemoteAddr = long[:65] })},
		{"end without a name", other(func(p *Peer) { p.Connections[0].Peer = 0 })},
		{"end of more than 48 bits", other(func(p *Peer) { p.Connections[0].Peer = 1 << 60 })},
		{"connection to itself", other(func(p *Peer) { p.Connections[0].Peer = p.Name })},
		{"two connections to one peer", other(func(p *Peer) { p.Connections = both(peerName(3), peerName(4), peerName(3)) })},
		{"too many connections", other(func(p *Peer) { p.Connections = both(crowd...) })},
		{"absurd version", other(func(p *Peer) { p.Version = 1 << 63 })},
		{"highest version", other(func(p *Peer) { p.Version = 1<<64 - 1 })},
		{"absurd version of ours", Peer{Name: peerName(1), UID: 9, Version: 1<<64 - 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			top := NewTopology(Peer{Name: peerName(1), UID: 1}, seeded(1))
			m := top.Merge([]Peer{tt.entry, {Name: peerName(9), UID: 9, Version: 1}}, start)
			if m.Refused != 1 || !slices.Equal(m.Improved, []frame.PeerName{peerName(9)}) || m.SelfChanged {
				t.Errorf("Merge = %+v, want one refused and the other taken", m)
			}
			if top.Len() != 2 {
				t.Errorf("%d peers are known, want ourselves and the other", top.Len())
			}
			checkInvariants(t, top)
		})
	}
	t.Run("a short ID of more than 12 bits is none", func(t *testing.T) {
		top := NewTopology(Peer{Name: peerName(1), UID: 1}, seeded(1))
		top.Merge([]Peer{other(func(p *Peer) { p.ShortID, p.HasShortID = 4096, true })}, start)
		if p, ok := top.Peer(peerName(2)); !ok || p.HasShortID || p.ShortID != 0 {
			t.Errorf("entry = %+v, %v; want it without a short ID", p, ok)
		}
		m := top.Merge([]Peer{other(func(p *Peer) { p.ShortID, p.HasShortID = 4097, true })}, start)
		if len(m.Improved) != 0 {
			t.Error("the same entry again counts as an improvement")
		}
	})
}

// TestFloodOfPeers: invented peers fill the topology up to its bound and no
// further, and a neighbour still gets in.
func TestFloodOfPeers(t *testing.T) {
	top := NewTopology(Peer{Name: peerName(1), UID: 1}, seeded(1))
	full := 0
	for i := range 3 * MaxPeers {
		e := Peer{Name: peerName(2 + i), UID: 5, Version: 1, Connections: both(peerName(100_000+i), peerName(200_000+i))}
		full += top.Merge([]Peer{e}, start).Full
	}
	if top.Len() != MaxPeers || full == 0 {
		t.Errorf("%d peers are known and %d were refused, want %d", top.Len(), full, MaxPeers)
	}
	neighbour := peerName(900_000)
	top.Introduce(Peer{Name: neighbour, UID: 3})
	top.SetConnection(Connection{Peer: neighbour, Established: true})
	m := top.Merge([]Peer{{Name: neighbour, UID: 3, Version: 2, Connections: both(peerName(1))}}, start)
	if len(m.Improved) != 1 || top.Unicast(true)[neighbour] != neighbour {
		t.Errorf("a neighbour found no room: %+v", m)
	}
	checkInvariants(t, top)
	gone, _ := top.Collect(nil)
	if top.Len() != 2 {
		t.Errorf("%d peers are left after %d were collected, want 2", top.Len(), len(gone))
	}
}

func TestFloodOfConnections(t *testing.T) {
	top := NewTopology(Peer{Name: peerName(1), UID: 1}, seeded(1))
	var ends []frame.PeerName
	for i := range MaxConnections {
		ends = append(ends, peerName(5000+i))
	}
	conns, full := both(ends...), 0
	for i := range 2 * MaxLinks / MaxConnections {
		full += top.Merge([]Peer{{Name: peerName(2 + i), UID: 5, Version: 1, Connections: conns}}, start).Full
	}
	if top.links != MaxLinks || full != MaxLinks/MaxConnections {
		t.Errorf("%d connections are known, %d entries had no room; want %d and %d", top.links, full, MaxLinks, MaxLinks/MaxConnections)
	}
	checkInvariants(t, top)
	// An entry that shrinks makes room.
	top.Merge([]Peer{{Name: peerName(2), UID: 5, Version: 2}}, start)
	m := top.Merge([]Peer{{Name: peerName(4000), UID: 5, Version: 1, Connections: conns}}, start)
	if m.Full != 0 || top.links != MaxLinks {
		t.Errorf("no room after an entry shrank: %+v", m)
	}
}

// TestForgedVersionHeals: a forged entry of ours, as new as is believed at all,
// loses to our next one, with our name and another UID as well as with our UID.
func TestForgedVersionHeals(t *testing.T) {
	victim, other := peerName(1), peerName(2)
	for _, uid := range []uint64{1, 1<<64 - 1} {
		t.Run(fmt.Sprintf("UID %d", uid), func(t *testing.T) {
			us := NewTopology(Peer{Name: victim, UID: 1}, seeded(1))
			them := NewTopology(Peer{Name: other, UID: 2}, seeded(2))
			us.SetConnection(Connection{Peer: other, Established: true})
			forged := Peer{Name: victim, UID: uid, Version: versionCeiling(start)}
			if m := them.Merge([]Peer{us.Self(), forged}, start); len(m.Improved) != 1 {
				t.Fatalf("the forgery was not believed: %+v", m)
			}
			us.Merge([]Peer{forged}, start)
			if uid == 1 {
				if got := us.Self().Version; got != 1 {
					t.Errorf("version %d right after a forgery with our UID, want 1 still", got)
				}
				if !us.Reclaim() || us.Reclaim() {
					t.Error("Reclaim did not raise the version exactly once")
				}
			}
			if m := them.Merge([]Peer{us.Self()}, start); len(m.Improved) != 0 {
				t.Error("a version above the ceiling was believed")
			}
			later := start.Add(time.Second)
			if m := them.Merge([]Peer{us.Self()}, later); len(m.Improved) != 1 {
				t.Errorf("our entry did not win a second later: %+v", m)
			}
			if p, _ := them.Peer(victim); !slices.Equal(ends(p), []frame.PeerName{other}) {
				t.Errorf("they hold %+v", p)
			}
		})
	}
}

// TestVersionCeilingWithoutClock: a host that boots in 1970 believes versions.
func TestVersionCeilingWithoutClock(t *testing.T) {
	if got := versionCeiling(time.Unix(-5, 0)); got != versionCeiling(time.Unix(firstSecond, 0)) || got < 1<<40 {
		t.Errorf("versionCeiling(1969) = %d", got)
	}
}

// TestMergeOrderDoesNotMatter: peers that hear the same entries in any order, at
// once or one by one, end up with the same topology.
func TestMergeOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(50) {
		rng := seeded(seed)
		entries := randomEntries(rng)
		want := mergeAll(t, entries, len(entries))
		for range 5 {
			rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
			if got := mergeAll(t, entries, 1+rng.IntN(4)); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: topologies differ:\n%+v\n%+v", seed, got, want)
			}
		}
	}
}

// randomEntries returns several versions of some peers' entries. No two of one
// peer have the same version, UID and short ID state, so their order is total.
func randomEntries(rng *rand.Rand) []Peer {
	var entries []Peer
	used := map[string]bool{}
	for range 40 {
		p := Peer{Name: peerName(2 + rng.IntN(6)), UID: rng.Uint64N(3) + 1, Version: rng.Uint64N(6), HasShortID: rng.IntN(2) == 0}
		if key := fmt.Sprint(p); used[key] {
			continue
		} else {
			used[key] = true
		}
		p.NickName = fmt.Sprint(rng.IntN(1000))
		for i := range 6 {
			if n := peerName(2 + i); n != p.Name && rng.IntN(2) == 0 {
				p.Connections = append(p.Connections, Connection{Peer: n, Established: rng.IntN(2) == 0})
			}
		}
		entries = append(entries, p)
	}
	return entries
}

// mergeAll merges entries in portions and returns the entries of the others. An
// entry for every peer comes first, so that no placeholder is a matter of order.
func mergeAll(t *testing.T, entries []Peer, portion int) []Peer {
	t.Helper()
	top := NewTopology(Peer{Name: peerName(1), UID: 1, ShortID: 1, HasShortID: true}, seeded(1))
	for i := range 6 {
		top.Merge([]Peer{{Name: peerName(2 + i)}}, start)
	}
	for part := range slices.Chunk(entries, portion) {
		top.Merge(part, start)
	}
	checkInvariants(t, top)
	return slices.Collect(top.All())
}

// FuzzMerge: no sequence of updates breaks the topology, grows it beyond its
// bounds, or touches our own entry other than by raising its version.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x02\x01\x05\x07\x01\x03\x04\x05"))
	rng := seeded(1)
	for range 8 {
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		self := peerName(3)
		top := NewTopology(Peer{Name: self, UID: 5, NickName: "us"}, seeded(1))
		top.SetConnection(Connection{Peer: peerName(1), Established: true})
		for len(b) > 0 {
			was := top.Self()
			var entries []Peer
			entries, b = fuzzEntries(b)
			m := top.Merge(entries, start)
			is := top.Self()
			if is.UID != 5 || is.NickName != "us" || !slices.Equal(is.Connections, was.Connections) || is.Version < was.Version {
				t.Fatalf("our entry went from %+v to %+v", was, is)
			}
			if m.SelfChanged != (is.Version != was.Version) {
				t.Fatalf("SelfChanged = %v, version %d → %d", m.SelfChanged, was.Version, is.Version)
			}
			if len(b)%5 == 0 {
				top.Collect(func(n frame.PeerName) bool { return n%2 == 0 })
			}
			top.Reclaim()
			checkInvariants(t, top)
			for _, name := range slices.Concat(m.Improved, m.All, m.Outdated) {
				if _, ok := top.Peer(name); !ok && len(b)%5 != 0 {
					t.Fatalf("%v is reported but not known", name)
				}
			}
			top.NeighbourSubset(peerName(1))
			for p := range top.All() {
				top.Broadcast(p.Name, true)
			}
		}
	})
}

// fuzzEntries makes an update from bytes and returns what is left of them. Names
// are few, so that entries meet.
func fuzzEntries(b []byte) (entries []Peer, rest []byte) {
	next := func() (v byte) {
		if len(b) > 0 {
			v, b = b[0], b[1:]
		}
		return v
	}
	wide := func() uint64 {
		v := next()
		if v < 250 {
			return uint64(v) % 8
		}
		var n [8]byte
		b = b[copy(n[:], b):]
		return binary.BigEndian.Uint64(n[:])
	}
	name := func() frame.PeerName {
		v := next()
		if v == 255 {
			return frame.PeerName(wide())
		}
		return peerName(int(v % 12))
	}
	for range next() % 6 {
		e := Peer{Name: name(), UID: wide(), Version: wide(), ShortID: uint16(wide()), HasShortID: next()%2 == 0}
		e.NickName = strings.Repeat("n", int(next())*2)
		for range next() % 8 {
			flags := next()
			e.Connections = append(e.Connections, Connection{Peer: name(), Established: flags&1 != 0, Outbound: flags&2 != 0})
		}
		entries = append(entries, e)
	}
	return entries, b
}
