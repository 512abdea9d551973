package routing

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
)

const ms = time.Millisecond

// sighting is one frame of the address under test: where its frame entered the
// mesh, when, whether it announces, and what the table must make of it.
type sighting struct {
	at       time.Duration
	peer     frame.PeerName
	announce bool
	want     Verdict
	behind   frame.PeerName // where the table has the address afterwards
}

// TestMoves plays the cases of the table's documentation. a is the table's own
// peer, b and c are others.
func TestMoves(t *testing.T) {
	a, b, c := peerName(1), peerName(2), peerName(3)
	tests := []struct {
		name string
		seen []sighting
	}{
		{"container moves from b to us, without a word", []sighting{
			{0, b, false, Learned, b},
			{900 * ms, b, false, Known, b},
			{1000 * ms, a, false, Conflict, b}, // b had it 100 ms ago: maybe reflected
			{1899 * ms, a, false, Conflict, b},
			{1900 * ms, a, false, Moved, a},
			{1901 * ms, a, false, Known, a},
		}},
		{"container moves from b to us and announces itself", []sighting{
			{0, b, false, Learned, b},
			{5 * ms, a, true, Moved, a},
			{6 * ms, a, false, Known, a},
		}},
		{"container moves from us to b, without a word", []sighting{
			{0, a, false, Learned, a},
			{500 * ms, a, false, Known, a},
			{1400 * ms, b, false, Conflict, a},
			{1500 * ms, b, false, Moved, b},
		}},
		{"container moves from us to b and announces itself", []sighting{
			{0, a, false, Learned, a},
			{5 * ms, b, true, Moved, b},
		}},
		{"from us to b and back", []sighting{
			{0, a, false, Learned, a},
			{3 * time.Second, b, false, Moved, b},
			{8 * time.Second, b, false, Known, b},
			{11 * time.Second, a, false, Moved, a},
			{12 * time.Second, a, false, Known, a},
		}},
		{"from b to us and back", []sighting{
			{0, b, false, Learned, b},
			{3 * time.Second, a, false, Moved, a},
			{8 * time.Second, a, false, Known, a},
			{11 * time.Second, b, false, Moved, b},
		}},
		{"between two others the newest wins at once", []sighting{
			{0, b, false, Learned, b},
			{1 * ms, c, false, Moved, c},
			{2 * ms, b, false, Moved, b},
		}},
		{"our bridge reflects what came from b", []sighting{
			{0, b, false, Learned, b},
			{1 * ms, a, false, Conflict, b},
			{700 * ms, b, false, Known, b},
			{701 * ms, a, false, Conflict, b},
			{1500 * ms, b, false, Known, b},
			{1501 * ms, a, false, Conflict, b},
		}},
		{"our bridge reflects b's announcement", []sighting{
			{0, b, true, Learned, b},
			{1 * ms, a, true, Conflict, b},
			{2000 * ms, b, false, Known, b},
			{2001 * ms, b, true, Known, b},
			{2002 * ms, a, true, Conflict, b},
		}},
		{"b's bridge reflects our announcement", []sighting{
			{0, a, true, Learned, a},
			{1 * ms, b, true, Conflict, a},
			{300 * ms, a, false, Known, a},
			{301 * ms, b, false, Conflict, a},
		}},
		{"conflicts do not prolong a hold", []sighting{
			{0, b, false, Learned, b},
			{400 * ms, a, false, Conflict, b},
			{800 * ms, a, false, Conflict, b},
			{999 * ms, a, false, Conflict, b},
			{1000 * ms, a, false, Moved, a},
		}},
		{"somebody claims the address of our busy container", []sighting{
			{0, a, false, Learned, a},
			{800 * ms, b, false, Conflict, a},
			{900 * ms, a, false, Known, a},
			{1700 * ms, c, false, Conflict, a},
			{1800 * ms, a, false, Known, a},
		}},
		{"an old announcement does not shield a reflection for ever", []sighting{
			{0, b, true, Learned, b},
			{1100 * ms, b, false, Known, b},
			{1200 * ms, a, true, Moved, a},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := NewMACTable(MACConfig{Self: a})
			play(t, table, tt.seen)
		})
	}
}

func play(t *testing.T, table *MACTable, seen []sighting) {
	t.Helper()
	mac := hostMAC(7)
	for _, s := range seen {
		if got := table.Learn(mac, s.peer, s.announce, start.Add(s.at)); got != s.want {
			t.Fatalf("at %v, %v: Learn = %v, want %v", s.at, s.peer, got, s.want)
		}
		if got, ok := table.Lookup(mac); !ok || got != s.behind {
			t.Fatalf("at %v: Lookup = %v, %v; want %v", s.at, got, ok, s.behind)
		}
	}
}

// TestFlapping: moves in close order are damped and reported once; after a
// quiet minute they are free again.
func TestFlapping(t *testing.T) {
	a, b, c := peerName(1), peerName(2), peerName(3)
	sec := time.Second
	t.Run("between others", func(t *testing.T) {
		table := NewMACTable(MACConfig{Self: a})
		play(t, table, []sighting{
			{0, b, false, Learned, b},
			{1 * ms, c, false, Moved, c},
			{2 * ms, b, false, Moved, b},
			{3 * ms, c, false, Moved, c},
			{4 * ms, b, true, Unlearned, c},
			{1002 * ms, b, false, Unlearned, c},
			{1003 * ms, b, false, Flapping, b},
			{3002 * ms, c, false, Unlearned, b},
			{3003 * ms, c, false, Moved, c},
			{7003 * ms, b, false, Moved, b},
			{15003 * ms, c, false, Moved, c},
			{31002 * ms, b, false, Unlearned, c},
			{31003 * ms, b, false, Moved, b},
			{47003 * ms, c, false, Moved, c}, // 16 s is the most
		})
		if e := slices.Collect(table.All()); len(e) != 1 || !e[0].Flapping {
			t.Errorf("All = %+v, want one flapping entry", e)
		}
		play(t, table, []sighting{
			{108 * sec, b, false, Moved, b},
			{108*sec + ms, c, false, Moved, c},
		})
		if st := table.Stats(); st.Flapping != 1 || st.Unlearned != 4 || st.Moves != 11 {
			t.Errorf("Stats = %+v, want 11 moves, 4 unlearned, 1 flapping", st)
		}
	})
	t.Run("between us and another even announcements are damped", func(t *testing.T) {
		table := NewMACTable(MACConfig{Self: a})
		play(t, table, []sighting{
			{0, b, false, Learned, b},
			{2 * sec, a, true, Moved, a},
			{4 * sec, b, true, Moved, b},
			{6 * sec, a, true, Moved, a},
			{8 * sec, b, true, Flapping, b},
			{9900 * ms, a, true, Conflict, b},
			{10 * sec, a, true, Moved, a},
			{12 * sec, b, true, Conflict, a},
		})
		if st := table.Stats(); st.Conflicts != 2 {
			t.Errorf("Stats = %+v, want 2 conflicts", st)
		}
	})
}

func TestExpire(t *testing.T) {
	a, b := peerName(1), peerName(2)
	table := NewMACTable(MACConfig{Self: a})
	table.Learn(hostMAC(1), b, false, start)
	table.Learn(hostMAC(2), b, false, start)
	table.Learn(hostMAC(2), b, false, start.Add(time.Minute))
	if n := table.Expire(start.Add(10*time.Minute - 1)); n != 0 {
		t.Errorf("Expire removed %d entries before their time", n)
	}
	if n := table.Expire(start.Add(10 * time.Minute)); n != 1 {
		t.Errorf("Expire removed %d entries, want 1", n)
	}
	if _, ok := table.Lookup(hostMAC(1)); ok {
		t.Error("the older entry is still there")
	}
	if _, ok := table.Lookup(hostMAC(2)); !ok {
		t.Error("the refreshed entry is gone")
	}
	table.Expire(start.Add(11 * time.Minute))
	checkTable(t, table, 0)
}

func TestForget(t *testing.T) {
	a, b, c := peerName(1), peerName(2), peerName(3)
	table := NewMACTable(MACConfig{Self: a})
	for i := range 300 {
		table.Learn(hostMAC(i), []frame.PeerName{a, b, c}[i%3], false, start)
	}
	if n := table.Forget(b); n != 100 {
		t.Errorf("Forget removed %d entries, want 100", n)
	}
	for e := range table.All() {
		if e.Peer == b {
			t.Errorf("%v is still behind the forgotten peer", e.MAC)
		}
	}
	checkTable(t, table, 200)
}

func TestAllIsSorted(t *testing.T) {
	table := NewMACTable(MACConfig{Self: peerName(1)})
	for i := range 200 {
		table.Learn(hostMAC(i*37%200), peerName(2), false, start.Add(time.Duration(i)*time.Second))
	}
	n := 0
	for e := range table.All() {
		if e.MAC != hostMAC(n) {
			t.Fatalf("entry %d is %v, want %v", n, e.MAC, hostMAC(n))
		}
		if e.LastSeen.Before(start) || e.LastSeen.After(start.Add(200*time.Second)) {
			t.Fatalf("%v was last seen %v", e.MAC, e.LastSeen)
		}
		n++
	}
	if n != 200 {
		t.Errorf("All gave %d entries, want 200", n)
	}
	for range table.All() {
		break // stopping early is allowed
	}
}

// checkTable checks the table's own book-keeping and its number of entries.
func checkTable(t *testing.T, table *MACTable, want int) {
	t.Helper()
	total := 0
	for i := range table.shards {
		s := &table.shards[i]
		held := map[frame.PeerName]int{}
		for _, e := range s.entries {
			held[e.peer]++
		}
		if fmt.Sprint(held) != fmt.Sprint(s.held) {
			t.Fatalf("shard %d counts %v, has %v", i, s.held, held)
		}
		if len(s.entries) > table.perShard {
			t.Fatalf("shard %d has %d entries, its bound is %d", i, len(s.entries), table.perShard)
		}
		for p, n := range held {
			if n > table.perPeer {
				t.Fatalf("shard %d has %d entries of %v, a peer's bound is %d", i, n, p, table.perPeer)
			}
		}
		total += len(s.entries)
	}
	if total != table.Stats().Entries || want >= 0 && total != want {
		t.Errorf("%d entries, Stats says %d, want %d", total, table.Stats().Entries, want)
	}
}

func holders(table *MACTable) map[frame.PeerName]int {
	n := map[frame.PeerName]int{}
	for e := range table.All() {
		n[e.Peer]++
	}
	return n
}

// flood has peer claim n addresses of its own.
func flood(table *MACTable, peer frame.PeerName, n int) {
	for i := range n {
		mac := frame.MAC{0x0e, byte(peer), byte(peer >> 8), byte(i >> 16), byte(i >> 8), byte(i)}
		table.Learn(mac, peer, false, start)
	}
}

// TestMACFlood: peers that invent addresses displace none of those who have
// fewer, nor ours.
func TestMACFlood(t *testing.T) {
	const size = macShards * 64
	us, honest := peerName(1), peerName(2)
	table := NewMACTable(MACConfig{Self: us, Max: size})
	for i := range 40 {
		table.Learn(hostMAC(i), us, false, start)
		table.Learn(hostMAC(1000+i), honest, false, start)
	}
	before := holders(table)
	flood(table, peerName(66), 20*size)
	if n := holders(table)[peerName(66)]; n > size/2 {
		t.Errorf("one peer holds %d of %d entries", n, size)
	}
	for i := range 6 {
		flood(table, peerName(67+i), 2*size)
	}
	checkTable(t, table, -1)
	after := holders(table)
	for _, p := range []frame.PeerName{us, honest} {
		if after[p] != before[p] {
			t.Errorf("%v holds %d entries after the flood, %d before", p, after[p], before[p])
		}
	}
	if after[peerName(72)] == 0 {
		t.Error("the last peer got no entry at all in a full table")
	}
	// The flooder's new addresses are still learned, over its old ones.
	learned := 0
	for i := range 100 {
		if table.Learn(hostMAC(5000+i), honest, false, start) == Learned {
			learned++
		}
	}
	if learned < 50 {
		t.Errorf("an honest peer got %d of 100 addresses into the full table", learned)
	}
	checkTable(t, table, -1)
}

// TestMovesKeepBounds: entries that move are counted at their new peer.
func TestMovesKeepBounds(t *testing.T) {
	table := NewMACTable(MACConfig{Self: peerName(1), Max: macShards * 8})
	rng := seeded(5)
	for range 20000 {
		now := start.Add(time.Duration(rng.IntN(100)) * time.Second)
		table.Learn(hostMAC(rng.IntN(2000)), peerName(1+rng.IntN(5)), rng.IntN(2) == 0, now)
	}
	checkTable(t, table, -1)
}

func TestMACTableConcurrently(t *testing.T) {
	table := NewMACTable(MACConfig{Self: peerName(1), Max: macShards * 8})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := seeded(uint64(g))
			for i := range 2000 {
				mac := hostMAC(rng.IntN(300))
				table.Learn(mac, peerName(1+rng.IntN(4)), i%7 == 0, start.Add(time.Duration(i)*100*ms))
				table.Lookup(mac)
				if i%500 == 0 {
					table.Forget(peerName(1 + rng.IntN(4)))
					table.Expire(start.Add(time.Duration(i) * 100 * ms))
					for range table.All() {
					}
				}
			}
		})
	}
	wg.Wait()
	checkTable(t, table, -1)
}

func TestMACTableDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	table := NewMACTable(MACConfig{Self: peerName(1)})
	mac, now := hostMAC(1), start
	table.Learn(mac, peerName(2), false, now)
	n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Second)
		table.Learn(mac, peerName(2), false, now)
		table.Lookup(mac)
		table.Learn(mac, peerName(1), false, now)
	})
	if n != 0 {
		t.Errorf("%v allocations per frame, want none", n)
	}
}
