package main

import (
	"math"
	"testing"
	"time"
)

func TestHumanBytes(t *testing.T) {
	tests := []struct {
		n    uint64
		want string
	}{
		{0, "0B"}, {1, "1B"}, {1023, "1023B"}, {1024, "1.00KiB"}, {1536, "1.50KiB"},
		{10*1024 - 1, "10.0KiB"}, {100*1024 - 1, "100KiB"}, {1024*1024 - 1, "1024KiB"},
		{1 << 20, "1.00MiB"}, {123 << 30, "123GiB"}, {math.MaxUint64, "16.0EiB"},
	}
	for _, tt := range tests {
		if got := humanBytes(tt.n); got != tt.want {
			t.Errorf("humanBytes(%d) = %s, want %s", tt.n, got, tt.want)
		}
	}
}

func TestSeconds(t *testing.T) {
	tests := []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "0 s"}, {0, "0 s"}, {time.Millisecond, "1 s"}, {4 * time.Second, "4 s"},
		{119 * time.Second, "119 s"}, {2 * time.Minute, "2 min"}, {119 * time.Minute, "119 min"},
		{2 * time.Hour, "2 h"}, {72 * time.Hour, "3 days"},
	}
	for _, tt := range tests {
		if got := seconds(tt.d); got != tt.want {
			t.Errorf("seconds(%v) = %s, want %s", tt.d, got, tt.want)
		}
	}
}

func TestDropsText(t *testing.T) {
	tests := []struct {
		name  string
		drops map[string]uint64
		want  string
	}{
		{"none", nil, "0"},
		{"some", map[string]uint64{"too-big": 3, "no-path": 1}, "no-path=1 too-big=3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := dropsText(tt.drops); got != tt.want {
				t.Errorf("dropsText = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPasswordBits(t *testing.T) {
	weak := []string{"a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "12345678", "secret", "weave", "Weave2015"}
	good := []string{"correct-horse-battery", "0123456789abcdef0123456789abcdef", "xK9#mQ2$vL7p", "пароль-на-сетку-1"}
	for _, p := range weak {
		if bits := passwordBits(p); bits <= 0 || bits >= wantedPasswordBits {
			t.Errorf("passwordBits(%q) = %.0f, want less than %d", p, bits, wantedPasswordBits)
		}
	}
	for _, p := range good {
		if bits := passwordBits(p); bits < wantedPasswordBits {
			t.Errorf("passwordBits(%q) = %.0f, want %d or more", p, bits, wantedPasswordBits)
		}
	}
	if bits := passwordBits(""); bits != 0 {
		t.Errorf("passwordBits of none = %f", bits)
	}
}
