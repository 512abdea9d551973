package identity

import (
	"errors"
	"strings"
	"testing"
)

func TestPolicy(t *testing.T) {
	a, b, c := newKey(t), newKey(t), newKey(t)
	for _, tt := range []struct {
		name   string
		list   []Key
		stock  bool
		pinned *Key // of name 1
		key    *Key
		listed bool
		want   string // in the error; "": none
	}{
		{"open, first sight", nil, false, nil, &a, false, ""},
		{"open, stock", nil, false, nil, nil, false, ""},
		{"pinned", nil, false, &a, &a, false, ""},
		{"pinned, another key", nil, false, &a, &b, false, "meshd trust forget 00:00:00:00:00:01"},
		{"pinned, no key", nil, true, &a, nil, false, "shows no key"},
		{"listed", []Key{b, a}, false, nil, &a, true, ""},
		{"not listed", []Key{b, a}, true, nil, &c, false, "not in trust.keys"},
		{"stock beside a list", []Key{a}, false, nil, nil, false, "trust.stock"},
		{"stock allowed", []Key{a}, true, nil, nil, false, ""},
		{"listed, pinned to another", []Key{a, b}, false, &a, &b, false, "had " + a.String()},
		{"pinned, not listed", []Key{b}, false, &a, &a, false, "not in trust.keys"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := NewPolicy(openPins(t, t.TempDir()))
			p.Set(tt.list, tt.stock)
			if tt.pinned != nil {
				p.Taken(1, "host1", tt.pinned)
			}
			listed, err := p.Check(1, tt.key)
			if listed != tt.listed || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check = %v, %v, want %v, %q", listed, err, tt.listed, tt.want)
			}
			if err != nil && tt.key != nil && !strings.Contains(err.Error(), tt.key.String()) {
				t.Errorf("%v does not name the key", err)
			}
		})
	}
}

func TestPolicyPins(t *testing.T) {
	a, b := newKey(t), newKey(t)
	p := NewPolicy(openPins(t, t.TempDir()))
	p.Taken(1, "stock", nil)
	p.Taken(2, "host2", &a)
	p.Taken(2, "host2", &b)
	if got := p.pins.All(); len(got) != 1 || got[0].Key != a {
		t.Errorf("pins = %v, want the first key of 2 only", got)
	}
	if _, err := p.Check(2, &b); err == nil {
		t.Error("a second key was taken")
	}
	if _, _, err := p.pins.Forget(2); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Check(2, &b); err != nil {
		t.Errorf("after forget: %v", err)
	}
	p.Taken(10, "", &a)
	var pin *PinError
	if _, err := p.Check(10, &b); !errors.As(err, &pin) || *pin.Key != b {
		t.Errorf("Check = %v, want a *PinError", err)
	}
}
