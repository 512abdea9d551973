package control

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"meshd/internal/frame"
	"meshd/routing"
)

// The two structs as a router that uses encoding/gob has them.
type gobPeer struct {
	NameByte   []byte
	NickName   string
	UID        uint64
	Version    uint64
	ShortID    uint16
	HasShortID bool
}

type gobConnection struct {
	NameByte      []byte
	RemoteTCPAddr string
	Outbound      bool
	Established   bool
}

// gobEncode makes a payload of peers and slices of connections, of any types.
func gobEncode(tb testing.TB, values ...any) []byte {
	tb.Helper()
	var buf bytes.Buffer
	enc := gob.NewEncoder(&buf)
	for _, v := range values {
		if err := enc.Encode(v); err != nil {
			tb.Fatal(err)
		}
	}
	return buf.Bytes()
}

// gobDecode reads a payload with encoding/gob; peers and their connections.
func gobDecode(payload []byte) (peers []gobPeer, conns [][]gobConnection, err error) {
	dec := gob.NewDecoder(bytes.NewReader(payload))
	for {
		var p gobPeer
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return peers, conns, nil
		} else if err != nil {
			return nil, nil, err
		}
		var c []gobConnection
		if err := dec.Decode(&c); err != nil {
			return nil, nil, err
		}
		peers, conns = append(peers, p), append(conns, c)
	}
}

// fromGob is what DecodeTopology should make of an entry that encoding/gob read;
// ok is false where the entry is out of bounds.
func fromGob(p gobPeer, conns []gobConnection) (out routing.Peer, ok bool) {
	if len(p.NameByte) != 6 || !frame.PeerNameOf(p.NameByte).Valid() ||
		len(p.NickName) > routing.MaxNickName || len(conns) > routing.MaxConnections {
		return out, false
	}
	out = routing.Peer{Name: frame.PeerNameOf(p.NameByte), NickName: p.NickName, UID: p.UID, Version: p.Version}
	if p.HasShortID && p.ShortID < routing.ShortIDs {
		out.ShortID, out.HasShortID = p.ShortID, true
	}
	seen := map[frame.PeerName]bool{}
	for _, c := range conns {
		if len(c.NameByte) != 6 || !frame.PeerNameOf(c.NameByte).Valid() ||
			len(c.RemoteTCPAddr) > routing.MaxRemoteAddr || seen[frame.PeerNameOf(c.NameByte)] {
			return out, false
		}
		seen[frame.PeerNameOf(c.NameByte)] = true
		out.Connections = append(out.Connections, routing.Connection{
			Peer: frame.PeerNameOf(c.NameByte), RemoteAddr: c.RemoteTCPAddr,
			Outbound: c.Outbound, Established: c.Established,
		})
	}
	sortConnections(out.Connections)
	return out, true
}

// checkTopology decodes a captured payload. Where the router that sent it had the
// same gob type ids as we, encoding it again must give the same bytes.
func checkTopology(t *testing.T, payload []byte, want []capturedPeer) {
	t.Helper()
	got, err := DecodeTopology(payload)
	if err != nil || len(got) != len(want) {
		t.Errorf("DecodeTopology = %d entries, %v, want %d", len(got), err, len(want))
		return
	}
	sorted := true
	for i := range want {
		if peer := want[i].peer(); !reflect.DeepEqual(got[i], peer) {
			t.Errorf("DecodeTopology: entry %d = %+v, want %+v", i, got[i], peer)
		}
		sorted = sorted && slices.IsSortedFunc(want[i].Connections, func(a, b capturedConnection) int {
			return bytes.Compare(a.NameByte, b.NameByte)
		})
	}
	again := EncodeTopology(got)
	if bytes.HasPrefix(payload, peerTypeDef) && sorted && !bytes.Equal(again, payload) {
		t.Errorf("EncodeTopology = %x, want %x", again, payload)
	}
}

func TestGoldenTopologyIsCanonical(t *testing.T) {
	identical := 0
	for _, m := range goldenMessages(t) {
		if m.Gossip == nil || m.Gossip.Channel != "topology" {
			continue
		}
		checkTopology(t, m.Gossip.Payload, m.Gossip.Topology)
		if got, err := DecodeTopology(m.Gossip.Payload); err == nil && bytes.Equal(EncodeTopology(got), m.Gossip.Payload) {
			identical++
		}
	}
	if identical < 10 {
		t.Errorf("%d captured payloads encode to the same bytes, want at least 10", identical)
	}
}

func TestMergeVectorsDecode(t *testing.T) {
	var vectors struct {
		Steps []struct{ Payload hexBytes }
	}
	readJSON(t, "topology-merge.json", &vectors)
	if len(vectors.Steps) == 0 {
		t.Fatal("no steps")
	}
	for i, step := range vectors.Steps {
		got, err := DecodeTopology(step.Payload)
		if err != nil {
			t.Errorf("step %d: %v", i, err)
			continue
		}
		checkAgainstGob(t, step.Payload, got)
	}
}

// checkAgainstGob compares what DecodeTopology gave with encoding/gob.
func checkAgainstGob(t *testing.T, payload []byte, got []routing.Peer) {
	t.Helper()
	peers, conns, err := gobDecode(payload)
	if err != nil {
		return
	}
	var want []routing.Peer
	for i := range peers {
		if p, ok := fromGob(peers[i], conns[i]); ok {
			want = append(want, p)
		}
	}
	if len(want) != len(got) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("DecodeTopology = %+v, encoding/gob says %+v", got, want)
	}
}

// randomTopology has every kind of field value: zero, small, large.
func randomTopology(rng *rand.Rand, peers int) []routing.Peer {
	number := func() uint64 { return rng.Uint64() >> rng.IntN(65) }
	out := make([]routing.Peer, peers)
	for i := range out {
		p := routing.Peer{
			Name: frame.PeerName(1 + rng.Uint64N(1<<48-1)), NickName: strings.Repeat("n", rng.IntN(256)),
			UID: number(), Version: number(),
		}
		if rng.IntN(2) == 0 {
			p.ShortID, p.HasShortID = uint16(rng.IntN(routing.ShortIDs)), true
		}
		for range rng.IntN(20) {
			p.Connections = append(p.Connections, routing.Connection{
				Peer: frame.PeerName(1 + rng.Uint64N(1<<48-1)), RemoteAddr: strings.Repeat("a", rng.IntN(65)),
				Outbound: rng.IntN(2) == 0, Established: rng.IntN(2) == 0,
			})
		}
		sortConnections(p.Connections)
		out[i] = p
	}
	return out
}

func TestTopologyIsGob(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := range 30 {
		want := randomTopology(rng, n)
		payload := EncodeTopology(want)
		peers, conns, err := gobDecode(payload)
		if err != nil {
			t.Fatalf("encoding/gob does not read our payload: %v", err)
		}
		got, err := DecodeTopology(payload)
		if err != nil || len(got) != n || n > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("DecodeTopology = %+v, %v, want %+v", got, err, want)
		}
		checkAgainstGob(t, payload, got)
		var values []any
		for i := range peers {
			values = append(values, peers[i], slices.Concat([]gobConnection{}, conns[i]))
		}
		if got, err := DecodeTopology(gobEncode(t, values...)); err != nil || n > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("DecodeTopology of encoding/gob's bytes = %+v, %v, want %+v", got, err, want)
		}
	}
}

// TestMoreFieldsAreSkipped: entries may carry fields of any type that we do not
// know, weave protocol section 3.3.
func TestMoreFieldsAreSkipped(t *testing.T) {
	type inner struct {
		A []string
		B map[string]int
	}
	type peer struct {
		Before     inner
		NameByte   []byte
		Many       [][]inner
		Array      [3]float64
		Complex    complex128
		UID        uint64
		Self       *inner
		HasShortID bool
	}
	type connection struct {
		NameByte []byte
		Extra    map[uint64][]byte
	}
	in := inner{A: []string{"x", "y"}, B: map[string]int{"k": -7}}
	payload := gobEncode(t,
		peer{in, unhex("020000000001"), [][]inner{{in, in}, {}}, [3]float64{1, 2, 3}, 1i, 5, &in, true},
		[]connection{{unhex("020000000002"), map[uint64][]byte{1: {2}}}})
	got, err := DecodeTopology(payload)
	want := []routing.Peer{{
		Name: 0x020000000001, UID: 5, HasShortID: true,
		Connections: []routing.Connection{{Peer: 0x020000000002}},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("DecodeTopology = %+v, %v, want %+v", got, err, want)
	}
}

// TestBadEntriesAreLeftOut: routers relay what they do not check, so one bad
// entry must not cost the connection to an honest relay.
func TestBadEntriesAreLeftOut(t *testing.T) {
	name := func(i byte) []byte { return []byte{2, 0, 0, 0, 0, i} }
	good := gobPeer{NameByte: name(1), UID: 1}
	none := []gobConnection{}
	var many []gobConnection
	for i := range routing.MaxConnections + 1 {
		many = append(many, gobConnection{NameByte: []byte{2, 0, 0, 1, byte(i >> 8), byte(i)}})
	}
	tests := []struct {
		name  string
		peer  gobPeer
		conns []gobConnection
	}{
		{"no name", gobPeer{UID: 1}, none},
		{"name of 5 bytes", gobPeer{NameByte: name(1)[1:]}, none},
		{"name of 7 bytes", gobPeer{NameByte: append(name(1), 0)}, none},
		{"name of 1 MiB", gobPeer{NameByte: make([]byte, 1<<20)}, none},
		{"zero name", gobPeer{NameByte: make([]byte, 6)}, none},
		{"nickname of 256 bytes", gobPeer{NameByte: name(1), NickName: strings.Repeat("n", 256)}, none},
		{"connection without name", good, []gobConnection{{}}},
		{"connection to the zero name", good, []gobConnection{{NameByte: make([]byte, 6)}}},
		{"connection's name of 5 bytes", good, []gobConnection{{NameByte: name(1)[1:]}}},
		{"address of 65 bytes", good, []gobConnection{{NameByte: name(2), RemoteTCPAddr: strings.Repeat("a", 65)}}},
		{"two connections to one peer", good, []gobConnection{{NameByte: name(2)}, {NameByte: name(3)}, {NameByte: name(2)}}},
		{"too many connections", good, many},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			after := gobPeer{NameByte: name(9), UID: 9}
			got, err := DecodeTopology(gobEncode(t, tt.peer, tt.conns, after, none))
			if err != nil || len(got) != 1 || got[0].UID != 9 {
				t.Errorf("DecodeTopology = %+v, %v, want only the entry after it", got, err)
			}
		})
	}
}

func TestShortIDsThatAreNone(t *testing.T) {
	for _, tt := range []struct {
		id   uint16
		has  bool
		want bool
	}{{4095, true, true}, {4096, true, false}, {65535, true, false}, {7, false, false}, {0, true, true}} {
		got, err := DecodeTopology(gobEncode(t,
			gobPeer{NameByte: unhex("020000000001"), ShortID: tt.id, HasShortID: tt.has}, []gobConnection{}))
		if err != nil || len(got) != 1 || got[0].HasShortID != tt.want || !tt.want && got[0].ShortID != 0 {
			t.Errorf("short ID %d, %v: DecodeTopology = %+v, %v, want HasShortID %v", tt.id, tt.has, got, err, tt.want)
		}
	}
}

func TestTopologyIsBounded(t *testing.T) {
	name := func(i int) frame.PeerName { return frame.PeerName(0x020000000000 + i) }
	peers := make([]routing.Peer, routing.MaxPeers+10)
	for i := range peers {
		peers[i].Name = name(i + 1)
	}
	got, err := DecodeTopology(EncodeTopology(peers))
	if err != nil || len(got) != routing.MaxPeers {
		t.Errorf("DecodeTopology = %d entries, %v, want %d", len(got), err, routing.MaxPeers)
	}
	full := make([]routing.Connection, routing.MaxConnections)
	for i := range full {
		full[i].Peer = name(i + 1)
	}
	peers = peers[:routing.MaxLinks/len(full)+1]
	for i := range peers {
		peers[i].Connections = full
	}
	got, err = DecodeTopology(EncodeTopology(peers))
	if err != nil || len(got) != len(peers)-1 {
		t.Errorf("DecodeTopology = %d entries, %v, want %d", len(got), err, len(peers)-1)
	}
}

func TestDecodeTopologyRefuses(t *testing.T) {
	p := gobPeer{NameByte: unhex("020000000001"), NickName: "one", UID: 1, HasShortID: true}
	c := []gobConnection{{NameByte: unhex("020000000002"), RemoteTCPAddr: "10.0.0.1:6783", Outbound: true}}
	whole := gobEncode(t, p, c)
	if got, err := DecodeTopology(whole); err != nil || len(got) != 1 {
		t.Fatalf("DecodeTopology = %+v, %v, want one entry", got, err)
	}
	definitions := len(peerTypeDef)
	for i := 1; i < len(whole); i++ {
		got, err := DecodeTopology(whole[:i])
		if i == definitions { // whole messages, no entry yet
			continue
		}
		if err == nil && len(got) > 0 || err != nil && !errors.Is(err, ErrTopology) {
			t.Errorf("cut at %d of %d: DecodeTopology = %+v, %v", i, len(whole), got, err)
		}
	}
	type wrongName struct{ NameByte string }
	type wrongUID struct{ UID int }
	type wrongFlag struct{ HasShortID uint }
	type wrongConnection struct{ Outbound []byte }
	tests := map[string][]byte{
		"string for a name":         gobEncode(t, wrongName{"x"}, c),
		"int for a UID":             gobEncode(t, wrongUID{1}, c),
		"uint for a flag":           gobEncode(t, wrongFlag{1}, c),
		"bytes for a flag":          gobEncode(t, p, []wrongConnection{{[]byte{1}}}),
		"connections first":         gobEncode(t, c, p),
		"peer without connections":  gobEncode(t, p),
		"two peers":                 gobEncode(t, p, p, c),
		"one connection, no list":   gobEncode(t, p, c[0]),
		"strings as connections":    gobEncode(t, p, []string{"a"}),
		"a number":                  gobEncode(t, uint64(7), c),
		"bytes after a struct":      appendMessage(bytes.Clone(peerTypeDef), unhex("ff84 00 00")),
		"undefined type":            unhex("04 ff90 00 00"),
		"definition of a reserved":  unhex("03 05 01 00"),
		"definition without a kind": unhex("03 ff81 00"),
		"definition of kind 9":      unhex("06 ff81 09 00 00 00"),
		"defined twice":             slices.Concat(peerTypeDef, peerTypeDef),
		"empty message":             unhex("00"),
	}
	for name, payload := range tests {
		if got, err := DecodeTopology(payload); !errors.Is(err, ErrTopology) {
			t.Errorf("%s: DecodeTopology = %+v, %v, want %v", name, got, err, ErrTopology)
		}
	}
}

// appendMessage appends a gob message.
func appendMessage(dst []byte, content ...[]byte) []byte {
	return appendGobString(dst, bytes.Join(content, nil))
}

// bombs are payloads that ask for much more memory, stack or time than they have
// bytes, were they believed.
func bombs() map[string][]byte {
	peerValue := unhex("ff84 01 06 020000000001 00")
	start := appendMessage(bytes.Clone(peerTypeDef), peerValue)
	withList := slices.Concat(start, connectionsTypeDef, connectionTypeDef)
	fields := func(id int64, types ...int64) []byte {
		var list []gobField
		for i, typ := range types {
			list = append(list, gobField{fmt.Sprintf("F%d", i), typ})
		}
		return gobStructDef(id, "T", list...)
	}
	sliceOf := func(id, elem int64) []byte {
		def := append(appendGobID(nil, -id), byte(gobKindSlice), 1, 2)
		def = append(appendGobID(def, id), 0, 1)
		return appendMessage(nil, append(appendGobID(def, elem), 0, 0))
	}
	mapOf := func(id, key, elem int64) []byte {
		def := append(appendGobID(nil, -id), byte(gobKindMap), 1, 2)
		def = append(appendGobID(append(appendGobID(def, id), 0, 1), key), 1)
		return appendMessage(nil, append(appendGobID(def, elem), 0, 0))
	}
	manyFields := make([]int64, 100_000)
	for i := range manyFields {
		manyFields[i] = gobUint
	}
	var manyTypes []byte
	for i := range int64(50_000) {
		manyTypes = append(manyTypes, sliceOf(100+i, gobUint)...)
	}
	huge := appendGobUint(nil, 1<<62)
	deep := bytes.Repeat([]byte{1}, 1<<20)
	return map[string][]byte{
		"huge list":          appendMessage(bytes.Clone(withList), unhex("ff88 00"), huge),
		"huge list, one":     appendMessage(bytes.Clone(withList), unhex("ff88 00"), huge, unhex("00")),
		"empty connections":  appendMessage(bytes.Clone(withList), unhex("ff88 00 fd 100000"), make([]byte, 1<<20)),
		"many fields":        fields(66, manyFields...),
		"many types":         manyTypes,
		"long field name":    gobStructDef(66, "T", gobField{strings.Repeat("n", 1<<20), gobUint}),
		"long type name":     gobStructDef(66, strings.Repeat("n", 1<<20), gobField{"F", gobUint}),
		"huge name":          appendMessage(bytes.Clone(peerTypeDef), unhex("ff84 01"), huge),
		"huge message":       append(bytes.Clone(huge), 1),
		"list of itself":     slices.Concat(fields(66, 69), sliceOf(69, 69), appendMessage(nil, unhex("ff84 01"), deep)),
		"struct of itself":   slices.Concat(fields(66, 66), appendMessage(nil, unhex("ff84"), deep)),
		"map of itself":      slices.Concat(fields(66, 69), mapOf(69, 69, 69), appendMessage(nil, unhex("ff84 01"), deep)),
		"huge map":           slices.Concat(fields(66, 69), mapOf(69, gobString, gobString), appendMessage(nil, unhex("ff84 01"), huge, make([]byte, 1<<20))),
		"interface":          slices.Concat(fields(66, 8), appendMessage(nil, unhex("ff84 01 01 61 ff83"), deep)),
		"map as a topology":  slices.Concat(mapOf(66, gobUint, gobUint), appendMessage(nil, unhex("ff84 00"), huge)),
		"empty peers":        slices.Concat(start[:len(peerTypeDef)], connectionsTypeDef, connectionTypeDef, bytes.Repeat(unhex("03 ff84 00 04 ff88 00 00"), 100_000)),
		"one-byte messages":  make([]byte, 1<<20),
		"definitions inside": slices.Concat(peerTypeDef, bytes.Repeat(unhex("03 ff83 00"), 100_000)),
	}
}

// TestGobBombs: memory is in proportion to what came. A legitimate payload takes
// about 10 times its size at most (a connection of 12 bytes becomes one of 40,
// and lists double as they grow).
func TestGobBombs(t *testing.T) {
	for name, payload := range bombs() {
		t.Run(name, func(t *testing.T) {
			var got []routing.Peer
			var err error
			used := allocated(func() { got, err = DecodeTopology(payload) })
			if limit := uint64(256<<10 + 10*len(payload)); used > limit {
				t.Errorf("DecodeTopology allocated %d bytes for a payload of %d, want at most %d", used, len(payload), limit)
			}
			if len(got) > 0 {
				t.Errorf("DecodeTopology = %d entries, want none", len(got))
			}
			if err != nil && !errors.Is(err, ErrTopology) {
				t.Errorf("DecodeTopology: %v, want %v", err, ErrTopology)
			}
			if _, err := parseFeatureGob(payload); !errors.Is(err, ErrFeatures) {
				t.Errorf("parseFeatureGob: %v, want %v", err, ErrFeatures)
			}
		})
	}
}

func BenchmarkTopology(b *testing.B) {
	payload := EncodeTopology(randomTopology(rand.New(rand.NewPCG(5, 6)), 200))
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		for b.Loop() {
			if _, err := DecodeTopology(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	entries, err := DecodeTopology(payload)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		for b.Loop() {
			EncodeTopology(entries)
		}
	})
}

func FuzzDecodeTopology(f *testing.F) {
	for _, m := range goldenMessages(f) {
		if m.Gossip != nil && m.Gossip.Channel == "topology" {
			f.Add([]byte(m.Gossip.Payload))
		}
	}
	for _, payload := range bombs() {
		if len(payload) < 4096 {
			f.Add(payload)
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := DecodeTopology(payload)
		if err != nil {
			return
		}
		checkAgainstGob(t, payload, got)
		again, err := DecodeTopology(EncodeTopology(got))
		if err != nil || len(got) > 0 && !reflect.DeepEqual(again, got) {
			t.Fatalf("encoded and decoded again: %+v, %v, want %+v", again, err, got)
		}
	})
}
