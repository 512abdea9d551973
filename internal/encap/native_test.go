package encap

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"

	"meshd/internal/frame"
)

// nativeGolden is testdata/native-golden.json: datagrams that another
// implementation of the layout made.
type nativeGolden struct {
	Secret    string
	Index     uint32
	Datagrams []struct {
		Suite, What, Items, Datagram string
		Epoch, Counter               uint64
	}
}

var (
	nativeSecretA = [32]byte{1, 2, 3}
	nativeSuites  = []NativeSuite{NativeAES, NativeChaCha}
	nativePacket  = frame.Packet{Src: 0x020000000001, Dst: 0x020000000002, Hops: 32, Frame: frame.Frame{
		Data: []byte("\x02\x00\x00\x00\x0b\x02\x02\x00\x00\x00\x0b\x01\x88\xb5a frame"),
	}}
)

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNativeGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/native-golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g nativeGolden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	secret := [32]byte(fromHex(t, g.Secret))
	for _, suite := range nativeSuites {
		t.Run(suite.String(), func(t *testing.T) {
			seal, open := newNativePair(t, &secret, suite, g.Index)
			seen := 0
			for _, d := range g.Datagrams {
				if d.Suite != suite.String() {
					continue
				}
				seen++
				for seal.Epoch() < d.Epoch { // one datagram in each epoch
					advance(t, seal)
					if seal.counter != d.Counter {
						if _, _, err := open.Open(sealItems(t, seal, make([]byte, 4))); err != nil {
							t.Fatal(err)
						}
					}
				}
				items := fromHex(t, d.Items)
				got := sealItems(t, seal, items)
				if want := fromHex(t, d.Datagram); !bytes.Equal(got, want) {
					t.Errorf("%s, epoch %d: sealed %x, want %x", d.What, d.Epoch, got, want)
				}
				opened, counter, err := open.Open(got)
				if err != nil || counter != d.Counter || !bytes.Equal(opened, items) {
					t.Errorf("%s, epoch %d: opened %x, counter %d, %v; want %x, %d", d.What, d.Epoch, opened, counter, err, items, d.Counter)
				}
				if again := rewrite(t, items); !bytes.Equal(again, items) {
					t.Errorf("%s: written again %x, want %x", d.What, again, items)
				}
			}
			if seen != 11 {
				t.Errorf("%d datagrams, want 11", seen)
			}
		})
	}
}

// rewrite reads items and writes them again.
func rewrite(t *testing.T, items []byte) (b []byte) {
	t.Helper()
	r := NewNativeReader(items)
	for {
		i, ok := r.Next()
		if !ok {
			break
		}
		p, isFrame := i.Packet()
		f, isPart := i.Part()
		q, isQuestion := i.Question()
		a, isAnswer := i.Answer()
		size, isTested := i.Tested()
		super, isSuper := i.Super()
		switch {
		case isSuper:
			b = AppendNativeSuper(b, &super)
		case isFrame:
			b = AppendNativePacket(b, &p)
		case isPart:
			b = AppendNativePart(b, &f)
		case isQuestion:
			b = AppendNativeProbe(b, q)
		case isAnswer:
			b = AppendNativeReply(b, a)
		case isTested:
			b = AppendNativeTested(b, size)
		case i.Type == NativeTest:
			b = AppendNativeTest(b, NativeItemHeader+len(i.body))
		default:
			b = append(appendItem(b, i.Type, len(i.body)), i.body...)
			b[len(b)-len(i.body)-NativeItemHeader+offItemHops] = i.Hops
		}
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return b
}

func newNativePair(t testing.TB, secret *[32]byte, suite NativeSuite, index uint32) (*NativeSeal, *NativeOpen) {
	t.Helper()
	seal, err := NewNativeSeal(secret, suite, index)
	if err != nil {
		t.Fatal(err)
	}
	open, err := NewNativeOpen(secret, suite)
	if err != nil {
		t.Fatal(err)
	}
	return seal, open
}

func sealItems(t testing.TB, s *NativeSeal, items []byte) []byte {
	t.Helper()
	b := make([]byte, NativeHeaderLen, NativeOverhead+len(items))
	d, err := s.Seal(append(b, items...))
	if err != nil {
		t.Fatal(err)
	}
	if &d[0] != &b[0] || len(d) != NativeOverhead+len(items) {
		t.Fatalf("sealed elsewhere, or %d bytes", len(d))
	}
	return d
}

func advance(t testing.TB, s *NativeSeal) {
	t.Helper()
	if err := s.Advance(); err != nil {
		t.Fatal(err)
	}
}

// opens fails unless the datagram opens with that result; its bytes are kept.
func opens(t *testing.T, o *NativeOpen, d []byte, want error) {
	t.Helper()
	if _, _, err := o.Open(bytes.Clone(d)); !errors.Is(err, want) {
		t.Fatalf("Open = %v, want %v", err, want)
	}
}

func TestNativeRefusals(t *testing.T) {
	for _, suite := range nativeSuites {
		t.Run(suite.String(), func(t *testing.T) {
			seal, open := newNativePair(t, &nativeSecretA, suite, 7)
			d := sealItems(t, seal, []byte("items that nobody may change"))
			for i := range d {
				for bit := range 8 {
					b := bytes.Clone(d)
					b[i] ^= 1 << bit
					if _, _, err := open.Open(b); err == nil {
						t.Fatalf("opens with bit %d of byte %d changed", bit, i)
					}
				}
			}
			for n := range d {
				if _, _, err := open.Open(bytes.Clone(d[:n])); err == nil {
					t.Fatalf("opens when cut to %d bytes", n)
				}
			}
			opens(t, open, d[:NativeOverhead-1], ErrShort)
			for _, kind := range []byte{0x00, 0x40, 0xc0, 0x90, 0xa0} {
				opens(t, open, append([]byte{kind}, d[1:]...), ErrKind)
			}
			other, _ := newNativePair(t, &[32]byte{9}, suite, 7)
			opens(t, open, sealItems(t, other, []byte("under another key")), ErrAuth)
			high, _ := newNativePair(t, &nativeSecretA, suite, 7)
			high.counter, high.began = nativeCounterLimit-1, nativeCounterLimit-1
			if _, err := high.Seal(make([]byte, NativeHeaderLen, 64)); err != nil {
				t.Fatal(err)
			}
			if _, err := high.Seal(make([]byte, NativeHeaderLen, 64)); !errors.Is(err, ErrSpent) {
				t.Fatalf("seals with counter 2^63: %v", err)
			}
			if open.Epoch() != 0 || open.next == nil || open.window != (Window{}) {
				t.Error("what was refused has changed something")
			}
			opens(t, open, d, nil)
			opens(t, open, d, ErrReplay)
		})
	}
}

// Datagrams of three epochs open in any order, those of others do not, and a
// forged epoch changes nothing.
func TestNativeEpochs(t *testing.T) {
	seal, open := newNativePair(t, &nativeSecretA, NativeAES, 7)
	var d [20][2][]byte
	for e := range d {
		if e > 0 {
			advance(t, seal)
		}
		for k := range d[e] {
			d[e][k] = sealItems(t, seal, []byte{byte(e)})
		}
	}
	opens(t, open, d[0][0], nil)
	opens(t, open, d[2][0], ErrAuth)
	opens(t, open, d[16][0], ErrAuth) // looks like epoch 0
	forged := bytes.Clone(d[0][1])
	forged[0] = NativeKind | 1
	opens(t, open, forged, ErrAuth)
	if open.Epoch() != 0 {
		t.Fatal("a forged epoch moved the receiver on")
	}
	opens(t, open, d[1][0], nil)
	opens(t, open, d[0][1], nil) // overtaken
	opens(t, open, d[1][0], ErrReplay)
	opens(t, open, d[2][1], nil)
	opens(t, open, d[1][1], nil)
	opens(t, open, d[0][1], ErrAuth) // the epoch before the last
	open.Forget()
	opens(t, open, d[1][1], ErrAuth)
	opens(t, open, d[2][0], nil)
	if open.Epoch() != 2 {
		t.Errorf("epoch %d, want 2", open.Epoch())
	}
	for e := 3; e < len(d); e++ {
		opens(t, open, d[e][1], nil)
		opens(t, open, d[e][0], nil)
	}
}

func TestNativeReplayAndReorder(t *testing.T) {
	seal, open := newNativePair(t, &nativeSecretA, NativeChaCha, 7)
	const n = 4000
	var all [n][]byte
	for i := range all {
		if i == n/2 {
			advance(t, seal)
		}
		all[i] = sealItems(t, seal, []byte{1, 2, 3, 4})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, d := range all {
		opens(t, open, d, nil)
	}
	for _, d := range all {
		opens(t, open, d, ErrReplay)
	}
}

func TestNativeKeyIsSpent(t *testing.T) {
	seal, open := newNativePair(t, &nativeSecretA, NativeAES, 7)
	seal.counter = NativeSpent - 1
	last := sealItems(t, seal, []byte{1})
	if _, err := seal.Seal(make([]byte, NativeHeaderLen, 64)); !errors.Is(err, ErrSpent) || seal.Used() != NativeSpent {
		t.Fatalf("Seal = %v after %d datagrams, want %v", err, seal.Used(), ErrSpent)
	}
	advance(t, seal)
	fresh := sealItems(t, seal, []byte{2})
	opens(t, open, last, nil)
	opens(t, open, fresh, nil)
	if seal.Used() != 1 || seal.Epoch() != 1 {
		t.Errorf("epoch %d used %d times, want 1 and 1", seal.Epoch(), seal.Used())
	}
}

// Every epoch, suite and direction has a key of its own, and no counter is used
// twice under one.
func TestNativeKeysDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, suite := range nativeSuites {
		for n, secret := range []*[32]byte{{1}, {2}} {
			seal, _ := newNativePair(t, secret, suite, 7)
			for e := range 20 {
				if e > 0 {
					advance(t, seal)
				}
				seal.counter = uint64(e) // equal headers but for the epoch
				d := sealItems(t, seal, make([]byte, 32))
				what := fmt.Sprint(suite, n, e)
				body := string(d[NativeHeaderLen:])
				if other, ok := seen[body]; ok {
					t.Errorf("%s seals like %s", what, other)
				}
				seen[body] = what
			}
		}
	}
}

func TestNativeItemRefusals(t *testing.T) {
	good := AppendNativePacket(nil, &nativePacket)
	part := NativePart{Packet: nativePacket, ID: 1, Offset: 8, Total: 8 + len(nativePacket.Frame.Data)}
	change := func(b []byte, at int, to ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], to)
		return b
	}
	fragment := AppendNativePart(nil, &part)
	super := AppendNativeSuper(nil, &nativePacket)
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"no hops", change(good, offItemHops, 0)},
		{"no source", change(good, NativeItemHeader, 0, 0, 0, 0, 0, 0)},
		{"no destination", change(good, NativeItemHeader+offBodyDst, 0, 0, 0, 0, 0, 0)},
		{"short frame", append([]byte{1, 32, 0, offBodyFrame + 13}, make([]byte, offBodyFrame+13)...)},
		{"no frame", []byte{1, 32, 0, 0}},
		{"fragment without hops", change(fragment, offItemHops, 0)},
		{"fragment without source", change(fragment, NativeItemHeader, 0, 0, 0, 0, 0, 0)},
		{"fragment beyond the end", change(fragment, NativeItemHeader+offFragTotal, 0, 28)},
		{"fragment of nothing", append([]byte{2, 32, 0, offFragData}, fragment[NativeItemHeader:NativeItemHeader+offFragData]...)},
		{"fragment of a short frame", append([]byte{2, 32, 0, offFragData + 1}, change(fragment, NativeItemHeader+offFragOffset, 0, 0, 0, 13)[NativeItemHeader:NativeItemHeader+offFragData+1]...)},
		{"super-frame without hops", change(super, offItemHops, 0)},
		{"super-frame without destination", change(super, NativeItemHeader+offBodyDst, 0, 0, 0, 0, 0, 0)},
		{"short super-frame", append([]byte{7, 32, 0, offSuperData + 13}, make([]byte, offSuperData+13)...)},
		{"super-frame of nothing", []byte{7, 32, 0, 0}},
		{"short probe", []byte{3, 0, 0, 1, 0}}, {"short reply", []byte{4, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0}},
		{"short tested", []byte{6, 0, 0, 1, 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewNativeReader(tt.b)
			i, ok := r.Next()
			if !ok || r.Err() != nil {
				t.Fatalf("no item: %v", r.Err())
			}
			if i.usable() {
				t.Errorf("%x was taken", tt.b)
			}
			if _, more := r.Next(); more {
				t.Error("there is another item")
			}
		})
	}
	for n := 1; n < len(good); n++ {
		r := NewNativeReader(append(bytes.Clone(good), good[:n]...))
		if i, ok := r.Next(); !ok || !i.usable() {
			t.Fatal("the item before was not taken")
		}
		if _, ok := r.Next(); ok || !errors.Is(r.Err(), ErrTrailing) {
			t.Fatalf("%d trailing bytes: %v, want %v", n, r.Err(), ErrTrailing)
		}
	}
	if i := (NativeItem{Type: 0x70, body: make([]byte, 100), Hops: 1}); i.usable() {
		t.Error("an unknown type was taken")
	}
}

// usable reports whether the item is of a type that can be read.
func (i NativeItem) usable() bool {
	_, isFrame := i.Packet()
	_, isPart := i.Part()
	_, isQuestion := i.Question()
	_, isAnswer := i.Answer()
	_, isTested := i.Tested()
	_, isSuper := i.Super()
	return isFrame || isPart || isQuestion || isAnswer || isTested || isSuper
}

// A super-frame comes out with all of its Offload but the hint.
func TestNativeSuper(t *testing.T) {
	for _, n := range []int{frame.HeaderLen, 5000, NativeSuperMax} {
		p := nativePacket
		p.Frame = frame.Frame{Data: bytes.Repeat([]byte{7}, n), Offload: frame.Offload{
			Flags: 1, GSOType: 0x81, HdrLen: 54, GSOSize: 0x0203, CsumStart: 0x0405, CsumOffset: 0x0607,
		}}
		b := AppendNativeSuper([]byte("x"), &p)[1:]
		if len(b) != NativeSuperHeader+n {
			t.Errorf("the item has %d bytes, want %d", len(b), NativeSuperHeader+n)
		}
		r := NewNativeReader(b)
		i, _ := r.Next()
		got, ok := i.Super()
		p.Frame.Offload.HdrLen = 0
		if !ok || !reflect.DeepEqual(got, p) {
			t.Errorf("%d bytes: read %v, %v", n, ok, got.Frame.Offload)
		}
		if !bytes.Equal(rewrite(t, b), b) {
			t.Errorf("%d bytes: written again they are others", n)
		}
	}
}

// A frame that fills a datagram leaves 1413 bytes for its IP packet on Ethernet.
func TestNativeOverhead(t *testing.T) {
	if got := NativeOverhead + NativePacketHeader; got != 45 {
		t.Errorf("a frame costs %d bytes, want 45", got)
	}
	if got := len(AppendNativeTest(nil, 1443)); got != 1443 {
		t.Errorf("a test of 1443 bytes has %d", got)
	}
}

func TestNativeDoesNotAllocate(t *testing.T) {
	for _, suite := range nativeSuites {
		seal, open := newNativePair(t, &nativeSecretA, suite, 7)
		buf := make([]byte, 0, 2048)
		data := make([]byte, 1400)
		n := testing.AllocsPerRun(1000, func() {
			p := nativePacket
			p.Frame.Data = data
			d, err := seal.Seal(AppendNativePacket(buf[:NativeHeaderLen], &p))
			if err != nil {
				t.Fatal(err)
			}
			items, _, err := open.Open(d)
			if err != nil {
				t.Fatal(err)
			}
			r := NewNativeReader(items)
			i, _ := r.Next()
			if _, ok := i.Packet(); !ok {
				t.Fatal("no packet")
			}
		})
		if n != 0 {
			t.Errorf("%v: %v allocations per datagram, want 0", suite, n)
		}
	}
}

func FuzzNativeReader(f *testing.F) {
	f.Add(AppendNativePacket(AppendNativeTested(nil, 1500), &nativePacket))
	f.Add(AppendNativePart(nil, &NativePart{Packet: nativePacket, Total: 21}))
	f.Add(AppendNativeProbe(AppendNativeReply(nil, NativeAnswer{}), NativeQuestion{}))
	f.Add(append(AppendNativeTest(nil, 40), 1))
	f.Add(AppendNativeSuper(nil, &nativePacket))
	f.Fuzz(func(t *testing.T, b []byte) {
		given := bytes.Clone(b)
		r := NewNativeReader(b)
		read := 0
		for {
			i, ok := r.Next()
			if !ok {
				break
			}
			read += NativeItemHeader + len(i.body)
			i.usable()
			if p, ok := i.Packet(); ok && (len(p.Frame.Data) < frame.HeaderLen || p.Hops == 0) {
				t.Fatalf("packet %+v", p)
			}
			if f, ok := i.Part(); ok && (len(f.Packet.Frame.Data) == 0 || f.Offset+len(f.Packet.Frame.Data) > f.Total) {
				t.Fatalf("fragment %+v", f)
			}
		}
		if (read == len(b)) != (r.Err() == nil) || !slices.Equal(given, b) {
			t.Fatalf("read %d of %d bytes, err %v", read, len(b), r.Err())
		}
	})
}

func FuzzNativeOpen(f *testing.F) {
	seal, _ := newNativePair(f, &nativeSecretA, NativeAES, 7)
	f.Add(sealItems(f, seal, []byte("items")))
	f.Add([]byte{0x81, 0, 0, 0, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		open, err := NewNativeOpen(&[32]byte{8}, NativeAES) // nobody has this key
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := open.Open(b); err == nil || open.window != (Window{}) || open.Epoch() != 0 {
			t.Fatalf("Open = %v, epoch %d", err, open.Epoch())
		}
	})
}

func benchmarkNative(b *testing.B, run func(b *testing.B, suite NativeSuite)) {
	for _, suite := range nativeSuites {
		b.Run(suite.String(), func(b *testing.B) {
			b.SetBytes(1413 + frame.HeaderLen)
			b.ReportAllocs()
			run(b, suite)
		})
	}
}

func BenchmarkNativeSeal(b *testing.B) {
	benchmarkNative(b, func(b *testing.B, suite NativeSuite) {
		seal, _ := newNativePair(b, &nativeSecretA, suite, 7)
		d := make([]byte, 1472-NativeTagLen, 1472)
		for b.Loop() {
			if seal.Used() == NativeSpent {
				advance(b, seal)
			}
			if _, err := seal.Seal(d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNativeOpen(b *testing.B) {
	benchmarkNative(b, func(b *testing.B, suite NativeSuite) {
		seal, open := newNativePair(b, &nativeSecretA, suite, 7)
		const ring = 1024
		var sealed [ring][]byte
		for i := range sealed {
			sealed[i] = sealItems(b, seal, make([]byte, 1472-NativeOverhead))
		}
		buf := make([]byte, 1472)
		for i := 0; b.Loop(); i++ {
			if i%ring == 0 {
				open.window = Window{}
			}
			copy(buf, sealed[i%ring])
			if _, _, err := open.Open(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
