package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Change is one setting that differs between two configurations.
type Change struct {
	Key      string
	Old, New string // as they are printed; a password only as set or not
	Live     bool   // a reload applies it; else it takes a restart
}

// String is one line for a log or a terminal.
func (c Change) String() string {
	s := fmt.Sprintf("%s: %s -> %s", c.Key, c.Old, c.New)
	if !c.Live {
		s += " (takes effect after a restart)"
	}
	return s
}

// Diff lists the keys in which c differs from old, in the order of the file, and
// whether a reload can apply them. A changed password concerns new sessions.
func (c Config) Diff(old Config) []Change {
	var out []Change
	for _, k := range keys {
		was, is := k.get(&old), k.get(&c)
		if same(was, is) || k.name == "password_file" {
			continue
		}
		out = append(out, Change{Key: k.name, Old: show(was), New: show(is), Live: k.live || k.name == "transports" && SameTransports(c.Transports, old.Transports)})
	}
	// What counts is the password, not the file that it is in.
	if c.Password != old.Password {
		is := c.Password.String()
		if c.Password != "" && old.Password != "" {
			is = "(another)"
		}
		out = append(out, Change{Key: "password", Old: old.Password.String(), New: is, Live: true})
	}
	if c.OtherPassword != old.OtherPassword {
		is := c.OtherPassword.String()
		if c.OtherPassword != "" && old.OtherPassword != "" {
			is = "(another)"
		}
		out = append(out, Change{Key: "second password", Old: old.OtherPassword.String(), New: is, Live: true})
	}
	return out
}

// SameTransports reports whether two lists differ in their order at most: a reload
// applies that.
func SameTransports(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func same(a, b any) bool {
	if x, ok := a.([]string); ok && len(x) == 0 {
		return len(b.([]string)) == 0 // nil or empty
	}
	return reflect.DeepEqual(a, b)
}

func show(v any) string {
	switch x := v.(type) {
	case []string:
		return "[" + strings.Join(x, ", ") + "]"
	case []any:
		items := make([]string, len(x))
		for i, item := range x {
			items[i] = show(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case map[string]any:
		var words []string
		for _, key := range slices.Sorted(maps.Keys(x)) {
			words = append(words, key+": "+show(x[key]))
		}
		return "{" + strings.Join(words, ", ") + "}"
	case string:
		if x == "" {
			return `""`
		}
		return x
	}
	return fmt.Sprint(v)
}
