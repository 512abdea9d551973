package measure

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"meshd/internal/frame"
)

func TestMessageLayout(t *testing.T) {
	m := message{
		kind: kindReport, session: 0x1122334455667788, round: 0x99aabbcc, sequence: 0xddeeff00,
		tally: tally{frames: 1, bytes: 2, span: 3, outOfOrder: 4},
	}
	p := newPacket(alice, bob, 0)
	m.put(p.Frame.Data)
	const want = "020000000002" + "020000000001" + "88b5" + "6d736862" + "05" + "01" +
		"1122334455667788" + "99aabbcc" + "ddeeff00" +
		"0000000000000001" + "0000000000000002" + "0000000000000003" + "0000000000000004"
	if got := hex.EncodeToString(p.Frame.Data); got != want {
		t.Errorf("frame =\n%s, want\n%s", got, want)
	}
	if p.Src != alice || p.Dst != bob {
		t.Errorf("packet from %v to %v", p.Src, p.Dst)
	}
	if got, err := parse(p.Frame.Data); err != nil || got != m {
		t.Errorf("parse = %+v, %v, want %+v", got, err, m)
	}
}

// An echo reply tells its first hop in what is padding to old peers, who tell none.
func TestHopLayout(t *testing.T) {
	const head = "020000000002" + "020000000001" + "88b5" + "6d736862" + "02" + "01" +
		"0000000000000007" + "00000000" + "00000009"
	for _, tt := range []struct {
		name string
		hop  Hop
		wire string
		want Hop
	}{
		{"told", Hop{Via: bob, Transport: "punch", Addr: netip.MustParseAddrPort("192.0.2.1:6785")},
			"0100" + "010000000002" + "70756e63680000000000000000000000" + "0000000000000000", Hop{Via: bob, Transport: "punch"}},
		{"of a long name", Hop{Via: bob, Transport: "a-transport-of-tomorrow"},
			"0100" + "010000000002" + hex.EncodeToString([]byte("a-transport-of-t")) + "0000000000000000", Hop{Via: bob, Transport: "a-transport-of-t"}},
		{"none", Hop{}, strings.Repeat("00", MinFrame-offBody), Hop{}},
	} {
		p := newPacket(alice, bob, 0)
		m := message{kind: kindEchoReply, session: 7, sequence: 9, hop: tt.hop}
		m.put(p.Frame.Data)
		if got := hex.EncodeToString(p.Frame.Data); got != head+tt.wire {
			t.Errorf("%s: frame =\n%s, want\n%s", tt.name, got, head+tt.wire)
		}
		m.hop = tt.want
		if got, err := parse(p.Frame.Data); err != nil || got != m {
			t.Errorf("%s: parse = %+v, %v, want %+v", tt.name, got, err, m)
		}
	}
	// Forms of tomorrow tell nothing.
	p := newPacket(alice, bob, 0)
	(&message{kind: kindEchoReply, hop: Hop{Via: bob}}).put(p.Frame.Data)
	p.Frame.Data[offHopForm]++
	if got, err := parse(p.Frame.Data); err != nil || got.hop != (Hop{}) {
		t.Errorf("another form: parse = %+v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := newPacket(alice, bob, MinFrame).Frame.Data
	(&message{kind: kindEcho}).put(good)
	for name, change := range map[string]func(b []byte) []byte{
		"short":          func(b []byte) []byte { return b[:MinFrame-1] },
		"mark cut off":   func(b []byte) []byte { return b[:offKind-1] },
		"no header":      func(b []byte) []byte { return b[:frame.HeaderLen-1] },
		"other type":     func(b []byte) []byte { b[13]++; return b },
		"other mark":     func(b []byte) []byte { b[offMagic]++; return b },
		"other version":  func(b []byte) []byte { b[offVersion]++; return b },
		"kind too low":   func(b []byte) []byte { b[offKind] = 0; return b },
		"kind too large": func(b []byte) []byte { b[offKind] = 6; return b },
	} {
		if m, err := parse(change(bytes.Clone(good))); err == nil {
			t.Errorf("%s: parsed as %+v", name, m)
		}
	}
	if _, err := parse(good); err != nil {
		t.Error(err)
	}
}

func TestHardwareIsUnicastAndLocal(t *testing.T) {
	for _, name := range []frame.PeerName{1, 0xffffffffffff, 0x010000000001, 0x001122334455} {
		if mac := hardware(name); mac.Multicast() || mac[0]&2 == 0 {
			t.Errorf("hardware(%v) = %v", name, mac)
		}
	}
}

func FuzzParse(f *testing.F) {
	for k := kindEcho; k <= kindReport; k++ {
		p := newPacket(alice, bob, MinFrame)
		m := message{kind: k, session: 7, round: 3, sequence: 9, tally: tally{frames: 5}, hop: Hop{Via: bob, Transport: "punch"}}
		m.put(p.Frame.Data)
		f.Add(p.Frame.Data)
		f.Add(p.Frame.Data[:offBody])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(data)
		if err == nil && !isOurs(data) {
			t.Error("parsed what is not ours")
		}
		if err != nil {
			return
		}
		again := newPacket(alice, bob, MinFrame)
		m.put(again.Frame.Data)
		if got, err := parse(again.Frame.Data); err != nil || got != m {
			t.Errorf("%+v reads back as %+v, %v", m, got, err)
		}
	})
}

func FuzzParseOffer(f *testing.F) {
	f.Add(offer{verb: verbOffer, session: 1, argument: 5000}.append(nil))
	f.Add(offer{verb: verbRefuse, session: 1 << 63, argument: refuseBusy}.append(nil))
	f.Add(offer{verb: verbOffer, session: 2, argument: 60_000, purpose: toPing}.append(nil))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parseOffer(data)
		if err != nil {
			return
		}
		if again := o.append(nil); !bytes.HasPrefix(data, again) {
			t.Errorf("%x reads as %+v", data, o)
		} else if same, err := parseOffer(again); err != nil || same != o {
			t.Errorf("%+v reads back as %+v, %v", o, same, err)
		}
	})
}
