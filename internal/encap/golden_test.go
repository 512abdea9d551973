package encap

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"meshd/internal/frame"
)

// golden is testdata/sleeve-golden.json: what stock routers sent, by kind of
// datagram.
type golden struct {
	Plain     map[string]json.RawMessage `json:"sleeve_plain"`
	Encrypted map[string]json.RawMessage `json:"sleeve_encrypted"`
}

type goldenDatagram struct {
	name    string
	Sender  frame.PeerName
	Len     int
	Payload digest
	Frames  []goldenFrame
	Crypto  *goldenCrypto
}

type goldenFrame struct {
	Kind  string
	Src   frame.PeerName `json:"src_peer"`
	Dst   frame.PeerName `json:"dst_peer"`
	Len   int
	Frame string // hex, for kind "ethernet"
	UID   string `json:"connection_uid_hex"` // for kind "heartbeat"
}

type goldenCrypto struct {
	DF        bool `json:"df_bit"`
	Dialled   bool `json:"sender_dialled"`
	Sequence  uint64
	Key       string `json:"session_key"`
	Plaintext digest
}

// digest is a byte string, in full or as what is known of it.
type digest struct {
	whole  []byte
	Len    int
	SHA256 string
	Rest   string // "all zero"
	Head   string `json:"first20"`
}

func (d *digest) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		whole, err := hex.DecodeString(text)
		d.whole, d.Len = whole, len(whole)
		return err
	}
	type plain digest
	return json.Unmarshal(b, (*plain)(d))
}

func (d *digest) check(t *testing.T, what string, got []byte) {
	t.Helper()
	if len(got) != d.Len {
		t.Fatalf("%s has %d bytes, want %d", what, len(got), d.Len)
	}
	switch {
	case d.whole != nil:
		if !bytes.Equal(got, d.whole) {
			t.Errorf("%s = %x, want %x", what, got, d.whole)
		}
	case d.SHA256 != "":
		if sum := sha256.Sum256(got); hex.EncodeToString(sum[:]) != d.SHA256 {
			t.Errorf("%s has SHA-256 %x, want %s", what, sum, d.SHA256)
		}
	default:
		want := append(unhex(t, d.Head), make([]byte, d.Len-20)...)
		if d.Rest != "all zero" || !bytes.Equal(got, want) {
			t.Errorf("%s begins %x, want %s and then zero", what, got[:min(len(got), 40)], d.Head)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// loadGolden returns the plain and the encrypted datagrams.
func loadGolden(t testing.TB) (plain, sealed []goldenDatagram) {
	t.Helper()
	b, err := os.ReadFile("testdata/sleeve-golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return datagrams(t, g.Plain), datagrams(t, g.Encrypted)
}

func datagrams(t testing.TB, kinds map[string]json.RawMessage) (all []goldenDatagram) {
	t.Helper()
	for kind, raw := range kinds {
		if kind == "connection" {
			continue
		}
		var ds []goldenDatagram
		if err := json.Unmarshal(raw, &ds); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for _, d := range ds {
			d.name = kind
			all = append(all, d)
		}
	}
	return all
}

// data is the frame as the vectors describe it.
func (f *goldenFrame) data(t testing.TB) []byte {
	t.Helper()
	switch f.Kind {
	case "ethernet":
		return unhex(t, f.Frame)
	case "heartbeat":
		return append(make([]byte, frame.HeaderLen), unhex(t, f.UID)...)
	case "fragmentation-test", "pmtu-test":
		return make([]byte, f.Len)
	}
	t.Fatalf("unknown kind %q", f.Kind)
	return nil
}

// packets encodes all frames of a datagram.
func (d *goldenDatagram) packets(t testing.TB) (b []byte) {
	t.Helper()
	for i := range d.Frames {
		f := &d.Frames[i]
		b = AppendSleevePacket(b, f.Src, f.Dst, f.data(t))
	}
	return b
}

// checkDecoded reads packets and compares them with the frames.
func (d *goldenDatagram) checkDecoded(t *testing.T, packets []byte) {
	t.Helper()
	r := NewSleeveReader(packets)
	for i := range d.Frames {
		want := &d.Frames[i]
		p, ok := r.Next()
		if !ok {
			t.Fatalf("there are %d packets, want %d", i, len(d.Frames))
		}
		if p.Src != want.Src || p.Dst != want.Dst || !bytes.Equal(p.Frame.Data, want.data(t)) {
			t.Errorf("packet %d is %v to %v %x, want %v to %v %x", i,
				p.Src, p.Dst, p.Frame.Data, want.Src, want.Dst, want.data(t))
		}
	}
	if _, more := r.Next(); more || r.Err() != nil {
		t.Errorf("after %d packets: more = %v, Err = %v", len(d.Frames), more, r.Err())
	}
}

func TestGoldenPlain(t *testing.T) {
	plain, _ := loadGolden(t)
	if len(plain) < 30 {
		t.Fatalf("testdata has %d plain datagrams", len(plain))
	}
	for _, d := range plain {
		t.Run(d.name, func(t *testing.T) {
			got := append(AppendSleeveName(nil, d.Sender), d.packets(t)...)
			d.Payload.check(t, "datagram", got)
			if d.Payload.whole == nil {
				d.Payload.whole = got // proved equal
			}
			if sender := frame.PeerNameOf(d.Payload.whole); sender != d.Sender {
				t.Errorf("sender %v, want %v", sender, d.Sender)
			}
			d.checkDecoded(t, d.Payload.whole[SleeveNameLen:])
		})
	}
}

func TestGoldenSealed(t *testing.T) {
	_, sealed := loadGolden(t)
	if len(sealed) < 20 {
		t.Fatalf("testdata has %d sealed datagrams", len(sealed))
	}
	for _, d := range sealed {
		t.Run(d.name, func(t *testing.T) {
			key := [32]byte(unhex(t, d.Crypto.Key))
			packets := d.packets(t)
			d.Crypto.Plaintext.check(t, "plaintext", packets)

			seal := NewSleeveSeal(&key, d.Crypto.Dialled)
			class := 0
			if d.Crypto.DF {
				class = 1
			}
			seal.next[class].Store(d.Crypto.Sequence)
			got := seal.Seal(nil, d.Sender, packets, d.Crypto.DF)
			d.Payload.check(t, "datagram", got)

			opened, err := NewSleeveOpen(&key, d.Crypto.Dialled).Open(nil, got)
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			d.checkDecoded(t, opened)
		})
	}
}
