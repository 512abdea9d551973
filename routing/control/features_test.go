package control

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// validFeatures are those of a stock router.
func validFeatures() map[string]string {
	return map[string]string{
		"PeerNameFlavour": "mac", "Name": "02:00:00:00:00:01", "NickName": "host1",
		"UID": "10335432964147598839", "ConnID": "10666346230867603880",
		"ShortID": "1792", "Trusted": "false", "Overlays": "sleeve",
	}
}

func TestParseFeatures(t *testing.T) {
	got, err := ParseFeatures(validFeatures(), 2)
	want := Features{
		Name: 0x020000000001, NickName: "host1", UID: 10335432964147598839, ConnID: 10666346230867603880,
		ShortID: 1792, HasShortID: true, Overlays: []string{"sleeve"}, HasOverlays: true,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseFeatures = %+v, %v, want %+v", got, err, want)
	}
	if back := got.FeatureMap(2); !maps.Equal(back, validFeatures()) {
		t.Errorf("FeatureMap(2) = %v, want %v", back, validFeatures())
	}
}

func TestParseFeaturesVersions(t *testing.T) {
	m := validFeatures()
	m["Meshd"] = "probe leave"
	m["Ephemeral"] = strings.Repeat("a5", 32)
	m["Something"] = "of the future"
	got, err := ParseFeatures(m, 2)
	if err != nil || !got.Native || got.Ephemeral == nil || got.Ephemeral[31] != 0xa5 {
		t.Errorf("ParseFeatures of version 2 = %+v, %v, want a meshd peer's", got, err)
	}
	if !got.Can(AbilityProbe) || !got.Can(AbilityLeave) || got.Can("fly") {
		t.Errorf("abilities = %q, want probe and leave", got.Abilities)
	}
	// Under version 1 not even malformed values of version 2 count.
	for _, key := range []string{"ShortID", "Trusted", "Ephemeral"} {
		m[key] = "nonsense"
	}
	got, err = ParseFeatures(m, 1)
	want := Features{Name: 0x020000000001, NickName: "host1", UID: 10335432964147598839, ConnID: 10666346230867603880}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseFeatures of version 1 = %+v, %v, want %+v", got, err, want)
	}
	got.Native, got.HasShortID, got.HasOverlays, got.Ephemeral = true, true, true, &[32]byte{}
	if keys := slices.Sorted(maps.Keys(got.FeatureMap(1))); !slices.Equal(keys, v1Features) {
		t.Errorf("FeatureMap(1) has %q, want %q", keys, v1Features)
	}
	if (Features{Abilities: []string{AbilityProbe}}).Can(AbilityProbe) {
		t.Error("a stock router can probe")
	}
}

func TestParseFeaturesAccepts(t *testing.T) {
	tests := []struct {
		key, value string
		check      func(Features) bool
	}{
		{"NickName", "", func(f Features) bool { return f.NickName == "" }},
		{"NickName", strings.Repeat("n", 255), func(f Features) bool { return len(f.NickName) == 255 }},
		{"Name", "02::1", func(f Features) bool { return f.Name == 0x020000000001 }},
		{"ShortID", "0", func(f Features) bool { return f.HasShortID && f.ShortID == 0 }},
		{"ShortID", "4095", func(f Features) bool { return f.ShortID == 4095 }},
		{"Trusted", "T", func(f Features) bool { return f.Trusted }},
		{"Trusted", "0", func(f Features) bool { return !f.Trusted }},
		{"ConnID", "0", func(f Features) bool { return f.ConnID == 0 }},
		{"UID", "18446744073709551615", func(f Features) bool { return f.UID == 1<<64-1 }},
		{"Overlays", "", func(f Features) bool { return f.HasOverlays && len(f.Overlays) == 0 }},
		{"Overlays", "fastdp sleeve", func(f Features) bool { return slices.Equal(f.Overlays, []string{"fastdp", "sleeve"}) }},
		{"Meshd", "", func(f Features) bool { return f.Native && len(f.Abilities) == 0 && f.Ephemeral == nil }},
	}
	for _, tt := range tests {
		m := validFeatures()
		m[tt.key] = tt.value
		if f, err := ParseFeatures(m, 2); err != nil || !tt.check(f) {
			t.Errorf("%s %q: ParseFeatures = %+v, %v", tt.key, tt.value, f, err)
		}
	}
}

// The port is one that datagrams can go to, and only a meshd peer's counts.
func TestPortFeature(t *testing.T) {
	for value, want := range map[string]uint16{"1": 1, "6783": 6783, "65535": 65535, "0": 0, "65536": 0, "": 0, "-1": 0, "x": 0} {
		m := validFeatures()
		m["Port"] = value
		if f, err := ParseFeatures(m, 2); err != nil || f.Port != 0 {
			t.Errorf("%q of a stock router: %d, %v, want it ignored", value, f.Port, err)
		}
		m["Meshd"] = ""
		f, err := ParseFeatures(m, 2)
		if f.Port != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v, want %d", value, f.Port, err, want)
		}
		if want != 0 && f.FeatureMap(2)["Port"] != value {
			t.Errorf("%q is sent as %q", value, f.FeatureMap(2)["Port"])
		}
	}
}

func TestParseFeaturesRefuses(t *testing.T) {
	for _, key := range []string{"PeerNameFlavour", "Name", "NickName", "UID", "ConnID"} {
		m := validFeatures()
		delete(m, key)
		for _, version := range []int{1, 2} {
			if _, err := ParseFeatures(m, version); !errors.Is(err, ErrFeatures) || !strings.Contains(err.Error(), key) {
				t.Errorf("version %d without %s: %v, want %v with the key", version, key, err, ErrFeatures)
			}
		}
	}
	tests := []struct{ key, value string }{
		{"PeerNameFlavour", "hash"},
		{"PeerNameFlavour", ""},
		{"Name", ""},
		{"Name", "00:00:00:00:00:00"},
		{"Name", "::"},
		{"Name", "02:00:00:00:00"},
		{"Name", "02:00:00:00:00:01:02"},
		{"Name", "host1"},
		{"Name", strings.Repeat("0", 4000)},
		{"NickName", strings.Repeat("n", 256)},
		{"UID", "0"},
		{"UID", ""},
		{"UID", "-1"},
		{"UID", "0x10"},
		{"UID", "18446744073709551616"},
		{"ConnID", "one"},
		{"ShortID", "4096"},
		{"ShortID", "65536"},
		{"ShortID", "-1"},
		{"ShortID", ""},
		{"Trusted", "yes"},
		{"Trusted", ""},
		{"Ephemeral", ""},
		{"Ephemeral", strings.Repeat("a", 63)},
		{"Ephemeral", strings.Repeat("a", 66)},
		{"Ephemeral", strings.Repeat("g", 64)},
		{"Other", strings.Repeat("x", 4097)},
		{strings.Repeat("k", 4097), ""},
	}
	for _, tt := range tests {
		m := validFeatures()
		m[tt.key] = tt.value
		_, err := ParseFeatures(m, 2)
		if !errors.Is(err, ErrFeatures) {
			t.Errorf("%.20s %.40q: ParseFeatures: %v, want %v", tt.key, tt.value, err, ErrFeatures)
		} else if len(err.Error()) > 200 {
			t.Errorf("%.20s: error has %d bytes; a stranger should not fill the log", tt.key, len(err.Error()))
		}
	}
	m := validFeatures()
	for i := range maxFeatures - len(m) + 1 {
		m[fmt.Sprint("extra", i)] = ""
	}
	if _, err := ParseFeatures(m, 2); !errors.Is(err, ErrFeatures) {
		t.Errorf("%d features: %v, want %v", len(m), err, ErrFeatures)
	}
	delete(m, "extra0")
	if _, err := ParseFeatures(m, 2); err != nil {
		t.Errorf("%d features: %v, want none", len(m), err)
	}
}

// TestFeatureGob compares with encoding/gob, both ways, and with what stock
// routers sent.
func TestFeatureGob(t *testing.T) {
	for n := range maxFeatures + 1 {
		want := map[string]string{}
		for i := range n {
			want[fmt.Sprint("key", i)] = strings.Repeat("v", i*i*4)
		}
		ours := appendFeatureGob(nil, want)
		var got map[string]string
		if err := gob.NewDecoder(bytes.NewReader(ours)).Decode(&got); err != nil || !maps.Equal(got, want) {
			t.Fatalf("encoding/gob reads %d features as %v, %v", n, got, err)
		}
		got, err := parseFeatureGob(gobEncode(t, want))
		if err != nil || !maps.Equal(got, want) {
			t.Fatalf("parseFeatureGob = %v, %v, want %v", got, err, want)
		}
	}
	c := capturedConnNamed(t, "01-connect-plain/0")
	wire := c.Messages[0].Wire[4:]
	if !bytes.HasPrefix(wire, featureTypeDef) || len(appendFeatureGob(nil, c.Messages[0].Features)) != len(wire) {
		t.Errorf("our features are not as long as captured ones, or defined otherwise")
	}
}

func TestFeatureGobRefuses(t *testing.T) {
	large := map[string]string{"k": strings.Repeat("v", maxFeatureBytes+1)}
	many := map[string]string{}
	for i := range maxFeatures + 1 {
		many[fmt.Sprint(i)] = ""
	}
	good := appendFeatureGob(nil, validFeatures())
	tests := map[string][]byte{
		"empty":          {},
		"only a type":    featureTypeDef,
		"cut":            good[:len(good)-1],
		"more follows":   append(bytes.Clone(good), 0),
		"twice":          append(bytes.Clone(good), good...),
		"map of numbers": gobEncode(t, map[string]int{"a": 1}),
		"map of names":   gobEncode(t, map[uint64]string{1: "a"}),
		"list":           gobEncode(t, []string{"a"}),
		"string":         gobEncode(t, "a"),
		"struct":         gobEncode(t, gobPeer{UID: 1}),
		"large value":    gobEncode(t, large),
		"many":           gobEncode(t, many),
		"huge count":     appendMessage(bytes.Clone(featureTypeDef), unhex("ff82 00 f8 ffffffffffffffff")),
		"count too low":  appendMessage(bytes.Clone(featureTypeDef), unhex("ff82 00 00 01 61 01 62")),
	}
	for name, b := range tests {
		if m, err := parseFeatureGob(b); !errors.Is(err, ErrFeatures) {
			t.Errorf("%s: parseFeatureGob = %v, %v, want %v", name, m, err, ErrFeatures)
		}
	}
}

func TestCommonOverlays(t *testing.T) {
	list := func(names ...string) Features { return Features{Overlays: names, HasOverlays: true} }
	tests := []struct {
		name   string
		ours   []string
		theirs Features
		want   []string
		tagged bool
	}{
		{"stock", []string{"quic", "punch", "sleeve"}, list("sleeve"), []string{"sleeve"}, true},
		{"stock with fastdp", []string{"sleeve"}, list("fastdp", "sleeve"), []string{"sleeve"}, true},
		{"our order", []string{"quic", "punch", "sleeve"}, list("sleeve", "quic", "punch"), []string{"quic", "punch", "sleeve"}, true},
		{"named twice", []string{"sleeve", "sleeve"}, list("sleeve", "sleeve"), []string{"sleeve"}, true},
		{"none sent", []string{"quic", "sleeve"}, Features{}, []string{"sleeve"}, false},
		{"none sent, and no sleeve", []string{"quic"}, Features{}, nil, false},
		{"nothing in common", []string{"sleeve"}, list("awsvpc"), nil, false},
		{"empty", []string{"sleeve"}, list(), nil, false},
	}
	for _, tt := range tests {
		got, tagged, err := CommonOverlays(tt.ours, tt.theirs)
		if !slices.Equal(got, tt.want) || tagged != tt.tagged {
			t.Errorf("%s: CommonOverlays = %q, %v, want %q, %v", tt.name, got, tagged, tt.want, tt.tagged)
		}
		if (tt.want == nil) != errors.Is(err, ErrNoCommonOverlay) {
			t.Errorf("%s: CommonOverlays: error %v", tt.name, err)
		}
	}
}

func FuzzParseFeatures(f *testing.F) {
	for _, m := range goldenMessages(f) {
		if m.Features != nil {
			f.Add(appendFeatureGob(nil, m.Features))
		}
	}
	native := validFeatures()
	native["Meshd"], native["Ephemeral"] = "probe leave", strings.Repeat("0f", 32)
	f.Add(appendFeatureGob(nil, native))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseFeatureGob(b)
		if err != nil {
			return
		}
		if again, err := parseFeatureGob(appendFeatureGob(nil, m)); err != nil || !maps.Equal(again, m) {
			t.Fatalf("encoded and read again: %v, %v, want %v", again, err, m)
		}
		for _, version := range []int{1, 2} {
			features, err := ParseFeatures(m, version)
			if err != nil {
				continue
			}
			again, err := ParseFeatures(features.FeatureMap(version), version)
			if err != nil || !reflect.DeepEqual(again, features) {
				t.Fatalf("version %d: FeatureMap parses as %+v, %v, want %+v", version, again, err, features)
			}
		}
	})
}
