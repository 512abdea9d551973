package expose

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, prefix(s))
	}
	return out
}

// A rule is known again whoever wrote it down: nft pads names, iptables keeps
// comments in a match.
func TestKeyOf(t *testing.T) {
	want := pass{from: "weave", source: prefix("10.1.0.0/17")}.rule()
	padded := want.in(nil, "FORWARD")
	padded.Exprs = append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg},
		&expr.Cmp{Register: reg, Data: []byte("weave\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
	}, padded.Exprs[2:]...)
	padded.Exprs[len(padded.Exprs)-2] = &expr.Counter{Packets: 7, Bytes: 77}
	if !same(padded, want) {
		t.Errorf("%s\nis not known as\n%s", keyOf(tag, padded.Exprs), keyOf(tag, want.exprs))
	}
	for _, other := range []pass{{from: "weave"}, {from: "weave2", source: prefix("10.1.0.0/17")}, {from: "weave", source: prefix("10.1.0.0/18")}, {to: "weave", destined: prefix("10.1.0.0/17")}} {
		if same(other.rule().in(&nftables.Table{}, "FORWARD"), want) {
			t.Errorf("%v is taken for another rule", other)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	b, err := (&addresses{index: 3}).message(prefix("192.168.99.1/24"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:9])
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, _, ok := parseAddress(b); ok && !x.prefix.IsValid() {
			t.Errorf("parseAddress(%x) = %v, which is no prefix", b, x.prefix)
		}
	})
	if x, index, ok := parseAddress(b); !ok || index != 3 || !x.tagged || x.prefix != prefix("192.168.99.1/24") {
		f.Errorf("parseAddress of our own = %v, %d, %v", x, index, ok)
	}
}
