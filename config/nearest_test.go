package config

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	candidates := []string{"peers", "transports", "bridge.mtu", "api.http"}
	for word, want := range map[string]string{
		"transprots":                "transports",
		"peer":                      "peers",
		"pers":                      "peers",
		"Peers":                     "peers",
		"bridge_mtu":                "bridge.mtu",
		"colour":                    "",
		"":                          "",
		strings.Repeat("peers", 99): "",
	} {
		if got := nearest(word, candidates); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"abc", "abc", 0}, {"abc", "", 3}, {"", "abc", 3},
		{"abc", "abd", 1}, {"abc", "acb", 1}, {"abc", "abcd", 1}, {"kitten", "sitting", 3},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
