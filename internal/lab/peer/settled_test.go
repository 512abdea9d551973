package peer

import "testing"

// view is a report: versions of the entries it holds, and its broadcast table.
func view(versions map[string]uint64, floods map[string][]string) Report {
	var r Report
	for name, v := range versions {
		r.Peers = append(r.Peers, Known{Name: name, UID: 1, Version: v})
	}
	for source, via := range floods {
		r.Routes.Broadcast = append(r.Routes.Broadcast, BroadcastRoute{source, via})
	}
	return r
}

func TestAgreeAndTrees(t *testing.T) {
	same := map[string]uint64{"a": 1, "b": 2, "c": 3}
	type floods = map[string][]string
	// a line: a - b - c
	line := func() map[string]Report {
		return map[string]Report{
			"a": view(same, floods{"a": {"b"}}),
			"b": view(same, floods{"a": {"c"}, "b": {"a", "c"}, "c": {"a"}}),
			"c": view(same, floods{"c": {"b"}}),
		}
	}
	for _, tt := range []struct {
		name         string
		change       func(r map[string]Report)
		agree, trees bool
	}{
		{"settled", func(map[string]Report) {}, true, true},
		{"an older entry", func(r map[string]Report) {
			r["c"] = view(map[string]uint64{"a": 1, "b": 1, "c": 3}, floods{"c": {"b"}})
		}, false, true},
		{"a peer is not known", func(r map[string]Report) {
			r["c"] = view(map[string]uint64{"b": 2, "c": 3}, floods{"c": {"b"}})
		}, false, true},
		{"a flood ends early", func(r map[string]Report) {
			r["b"] = view(same, floods{"b": {"a", "c"}, "c": {"a"}})
		}, true, false},
		{"a flood comes back to its source", func(r map[string]Report) {
			r["c"] = view(same, floods{"a": {"b"}, "c": {"b"}})
		}, true, false},
		{"a flood goes in a circle", func(r map[string]Report) {
			r["a"] = view(same, floods{"a": {"b"}, "c": {"b"}})
		}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := line()
			tt.change(r)
			if err := agree(r); (err == nil) != tt.agree {
				t.Errorf("agree = %v, want agreement: %v", err, tt.agree)
			}
			if err := trees(r); (err == nil) != tt.trees {
				t.Errorf("trees = %v, want trees: %v", err, tt.trees)
			}
		})
	}
}
