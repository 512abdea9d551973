package udp

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func TestRunLen(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	type m struct {
		n  int
		to netip.AddrPort
	}
	repeat := func(k, n int) (ms []m) {
		for range k {
			ms = append(ms, m{n, a})
		}
		return ms
	}
	tests := []struct {
		name string
		ms   []m
		want int
	}{
		{"one", repeat(1, 1400), 1},
		{"two", repeat(2, 1400), 2},
		{"shorter last", append(repeat(3, 1400), m{1, a}), 4},
		{"shorter ends it", append(repeat(3, 1400), m{1, a}, m{1, a}), 4},
		{"longer starts another", append(repeat(3, 1400), m{1401, a}), 3},
		{"another place", append(repeat(3, 1400), m{1400, b}), 3},
		{"another place at once", []m{{1400, a}, {1400, b}, {1400, a}}, 1},
		{"empty last", append(repeat(3, 1400), m{0, a}), 3},
		{"empty first", repeat(3, 0), 1},
		{"most segments", repeat(65, 1), maxSegments},
		{"most segments and a short one", append(repeat(64, 2), m{1, a}), maxSegments},
		{"most bytes", repeat(6, 13000), 5},
		{"most bytes by a short one", append(repeat(4, 13001), m{12997, a}), 4},
		{"too long for two", repeat(2, 40000), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var ms []Message
			for _, m := range tt.ms {
				ms = append(ms, Message{N: m.n, Addr: m.to})
			}
			if got := runLen(ms); got != tt.want {
				t.Errorf("runLen = %d, want %d", got, tt.want)
			}
		})
	}
}

// datagram makes one of n bytes that no other's piece looks like.
func datagram(seed uint64, n int) []byte {
	b := make([]byte, (n+7)/8*8)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8)}).Read(b)
	return b[:n]
}

// TestRuns sends batches of all shapes, whose buffers lie behind each other or
// not, with and without offload at each end: what arrives is what was sent.
func TestRuns(t *testing.T) {
	shapes := map[string][]int{
		"two":            {1400, 1400},
		"short last":     {1400, 1400, 1400, 1},
		"one byte each":  {1, 1, 1, 1, 1},
		"with empty":     {3, 3, 0, 3, 3, 0, 0},
		"runs of runs":   {9, 9, 8, 9, 9, 7, 7, 7, 1},
		"growing":        {1, 2, 3, 4, 5, 6},
		"shrinking":      {6, 5, 4, 3, 2, 1},
		"jumbo":          {8972, 8972, 8972, 8972, 8972, 8972, 8972, 8972},
		"largest":        {32500, 32500, 32500, 32501},
		"a super-frame":  repeated(46, 1372, 990),
		"most segments":  repeated(64, 1000, 1000),
		"more than most": repeated(65, 1000, 0, 999),
		"several":        repeated(200, 1372),
	}
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		for _, o := range []Offload{{}, {GSO: true}, {GRO: true}, {GSO: true, GRO: true}} {
			for name, sizes := range shapes {
				for _, joined := range []bool{true, false} {
					t.Run(fmt.Sprintf("GSO=%v/GRO=%v/%s/joined=%v", o.GSO, o.GRO, name, joined), func(t *testing.T) {
						from, to := listenWith(t, ip, Offload{GSO: o.GSO}), listenWith(t, ip, Offload{GRO: o.GRO})
						ms := shape(sizes, joined, to.LocalAddr())
						for _, df := range []bool{true, false} {
							if n, err := from.WriteBatch(ms, df); n != len(ms) || err != nil {
								t.Fatalf("WriteBatch = %d, %v", n, err)
							}
							wantSame(t, readAll(t, to, len(ms)), ms)
						}
					})
				}
			}
		}
	})
}

// repeated is n times size, and then the sizes of last.
func repeated(n, size int, last ...int) (sizes []int) {
	for range n {
		sizes = append(sizes, size)
	}
	return append(sizes, last...)
}

// shape makes datagrams of some sizes, which lie behind each other or apart.
func shape(sizes []int, joined bool, to netip.AddrPort) (ms []Message) {
	memory := make([]byte, 0, 1<<20)
	for i, n := range sizes {
		start := len(memory)
		memory = append(memory, datagram(uint64(i), n)...)
		ms = append(ms, Message{Buf: memory[start:len(memory):len(memory)], N: n, Addr: to})
		if !joined {
			memory = append(memory, 0xee)
		}
	}
	return ms
}

func wantSame(t *testing.T, got, want []Message) {
	t.Helper()
	for i := range want {
		if !bytes.Equal(got[i].Buf[:got[i].N], want[i].Buf[:want[i].N]) {
			t.Fatalf("datagram %d of %d arrived as %d bytes, or others; want %d bytes", i, len(want), got[i].N, want[i].N)
		}
	}
}

// TestRunsStayTogether: the offload is really used, and its bounds are right.
func TestRunsStayTogether(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		both := Offload{GSO: true, GRO: true}
		from, to := listenWith(t, ip, both), listenWith(t, ip, both)
		for _, c := range []*Conn{from, to} {
			if o := c.Offload(); !o.GSO || !o.GRO {
				t.Skip(o.Why)
			}
		}
		sent := shape(repeated(46, 1372, 990), true, to.LocalAddr())
		if n, err := from.WriteBatch(sent, true); n != len(sent) || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		got := readMessages(t, to, 47)
		if len(got) != 1 || got[0].Segment != 1372 || got[0].N != 46*1372+990 || got[0].Addr != from.LocalAddr() {
			t.Errorf("%d messages, the first with Segment %d, N %d from %v", len(got), got[0].Segment, got[0].N, got[0].Addr)
		}

		// One alone is no run, whatever was read into its place before.
		if n, err := from.WriteBatch(sent[:1], true); n != 1 || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		if got := readMessages(t, to, 1); got[0].Segment != 0 || got[0].N != 1372 {
			t.Errorf("one datagram has Segment %d, N %d", got[0].Segment, got[0].N)
		}

		// What is cut off are whole datagrams.
		if n, err := from.WriteBatch(sent, true); n != len(sent) || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		ms := []Message{{Buf: make([]byte, 10000)}}
		if n, err := to.ReadBatch(ms); n != 1 || err != nil || ms[0].Segment != 1372 || ms[0].N != 7*1372 {
			t.Errorf("ReadBatch = %d, %v with Segment %d, N %d; want N %d", n, err, ms[0].Segment, ms[0].N, 7*1372)
		}
	})
}

// readMessages reads until there are want datagrams and leaves runs together.
func readMessages(t *testing.T, c *Conn, want int) (got []Message) {
	t.Helper()
	watchdog := time.AfterFunc(10*time.Second, func() { c.Close() })
	defer watchdog.Stop()
	for datagrams(got) < want {
		ms := buffers(MaxRead)
		n, err := c.ReadBatch(ms)
		if err != nil {
			t.Fatalf("ReadBatch after %d of %d datagrams: %v", datagrams(got), want, err)
		}
		got = append(got, ms[:n]...)
	}
	return got
}

// TestMixedDestinations sends random batches to several places, one of which
// cannot be sent to: each gets its own, in order, and the one that cannot is
// named.
func TestMixedDestinations(t *testing.T) {
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		const seed = 7
		random := rand.New(rand.NewPCG(seed, seed))
		from := listenWith(t, ip, o)
		to := []*Conn{listenWith(t, ip, o), listenWith(t, ip, Offload{}), listenWith(t, ip, Offload{GRO: true})}
		for range 50 {
			var ms []Message
			want := make([][]Message, len(to))
			for range random.IntN(6) {
				i, size := random.IntN(len(to)), 1+random.IntN(1500)
				run := shape(repeated(random.IntN(70), size, random.IntN(size+1)), random.IntN(2) == 0, to[i].LocalAddr())
				ms, want[i] = append(ms, run...), append(want[i], run...)
			}
			bad := random.IntN(len(ms) + 1)
			all := append(append(append([]Message{}, ms[:bad]...), Message{Addr: netip.AddrPortFrom(ip, 0)}), ms[bad:]...)
			if n, err := from.WriteBatch(all, true); n != bad || err == nil || errors.Is(err, ErrFull) {
				t.Fatalf("WriteBatch = %d, %v; want %d", n, err, bad)
			}
			if n, err := from.WriteBatch(all[bad+1:], false); n != len(ms)-bad || err != nil {
				t.Fatalf("WriteBatch of the rest = %d, %v", n, err)
			}
			for i, c := range to {
				wantSame(t, readAll(t, c, len(want[i])), want[i])
			}
		}
	})
}
