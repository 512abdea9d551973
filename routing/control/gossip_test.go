package control

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"meshd/internal/frame"
)

// gobGossip is the body as encoding/gob makes it.
func gobGossip(tb testing.TB, tag byte, g Gossip) []byte {
	tb.Helper()
	var buf bytes.Buffer
	enc := gob.NewEncoder(&buf)
	values := []any{g.Channel, uint64(g.Src)}
	if tag == TagGossipUnicast {
		values = append(values, uint64(g.Dst))
	}
	for _, v := range append(values, g.Payload) {
		if err := enc.Encode(v); err != nil {
			tb.Fatal(err)
		}
	}
	return buf.Bytes()
}

// TestGossipIsGob compares with encoding/gob at every length where the encoding
// changes, and at random.
func TestGossipIsGob(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	lengths := []int{0, 1, 5, 123, 124, 125, 126, 127, 128, 129, 251, 252, 253, 254, 255, 256, 65529, 65535, 65536}
	for _, tag := range []byte{TagGossip, TagGossipUnicast, TagGossipBroadcast} {
		for i, n := range lengths {
			g := Gossip{
				Channel: strings.Repeat("c", min(n, maxChannel)),
				Src:     frame.PeerName(1 + rng.Uint64N(1<<(1+i*2))),
				Payload: bytes.Repeat([]byte{byte(n)}, n),
			}
			if tag == TagGossipUnicast {
				g.Dst = frame.PeerName(1 + rng.Uint64N(1<<47))
			}
			want := gobGossip(t, tag, g)
			if got := AppendGossip(tag, g); !bytes.Equal(got, want) {
				t.Errorf("AppendGossip(%d, %d bytes) = %.60x…, want %.60x…", tag, n, got, want)
			}
			got, err := ParseGossip(tag, want)
			if err != nil || !reflect.DeepEqual(got, g) {
				t.Errorf("ParseGossip(%d, %d bytes) = %v, %v", tag, n, got, err)
			}
		}
	}
}

func TestParseGossipRefuses(t *testing.T) {
	good := Gossip{Channel: "topology", Src: 1, Dst: 2, Payload: []byte("payload")}
	with := func(change func(*Gossip)) []byte {
		g := good
		change(&g)
		return AppendGossip(TagGossipUnicast, g)
	}
	body := AppendGossip(TagGossipUnicast, good)
	tests := map[string][]byte{
		"empty":               {},
		"channel too long":    with(func(g *Gossip) { g.Channel = strings.Repeat("c", maxChannel+1) }),
		"source is zero":      with(func(g *Gossip) { g.Src = 0 }),
		"source of 7 bytes":   with(func(g *Gossip) { g.Src = 1 << 48 }),
		"destination is zero": with(func(g *Gossip) { g.Dst = 0 }),
		"bytes follow":        append(bytes.Clone(body), 0),
		"no destination":      AppendGossip(TagGossip, good),
		"channel is bytes":    append(unhex("04 0a 00 01 63"), body[12:]...),
		"first byte not zero": append(unhex("04 0c 01 01 63"), body[12:]...),
		"length too long":     append(unhex("04 0c 00 02 63"), body[12:]...),
		"length too short":    append(unhex("04 0c 00 00 63"), body[12:]...),
		"huge length":         append(unhex("0b 0c 00 f8 ffffffffffffffff"), body[12:]...),
	}
	for i := range body {
		tests[fmt.Sprint("cut at ", i)] = body[:i]
	}
	for name, b := range tests {
		if g, err := ParseGossip(TagGossipUnicast, b); !errors.Is(err, ErrGossip) {
			t.Errorf("%s: ParseGossip = %+v, %v, want %v", name, g, err, ErrGossip)
		}
	}
}

// TestGossipAllocations: relaying is frequent, so bodies are not copied around.
func TestGossipAllocations(t *testing.T) {
	g := Gossip{Channel: "some.channel", Src: 1, Payload: make([]byte, 1000)}
	body := AppendGossip(TagGossip, g)
	if n := testing.AllocsPerRun(100, func() { AppendGossip(TagGossip, g) }); n > 1 {
		t.Errorf("AppendGossip allocates %v times, want 1", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ParseGossip(TagGossip, body); err != nil {
			t.Error(err)
		}
	}); n > 4 {
		t.Errorf("ParseGossip allocates %v times, want at most 4", n)
	}
}

func FuzzParseGossip(f *testing.F) {
	for _, m := range goldenMessages(f) {
		if m.Gossip != nil {
			f.Add(m.Tag, AppendGossip(m.Tag, Gossip{
				Channel: m.Gossip.Channel, Src: m.Gossip.Source, Dst: m.Gossip.Destination, Payload: m.Gossip.Payload,
			}))
		}
	}
	f.Fuzz(func(t *testing.T, tag byte, body []byte) {
		g, err := ParseGossip(tag, body)
		if err != nil {
			return
		}
		if !g.Src.Valid() || len(g.Channel) > maxChannel || (tag == TagGossipUnicast) != g.Dst.Valid() {
			t.Fatalf("ParseGossip(%d, %x) = %+v", tag, body, g)
		}
		again := AppendGossip(tag, g)
		if want := gobGossip(t, tag, g); !bytes.Equal(again, want) {
			t.Fatalf("AppendGossip = %x, encoding/gob says %x", again, want)
		}
		if got, err := ParseGossip(tag, again); err != nil || !reflect.DeepEqual(got, g) {
			t.Fatalf("parsed again = %+v, %v, want %+v", got, err, g)
		}
	})
}
