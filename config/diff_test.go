package config

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"meshd/internal/identity"
)

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		key    string
		change func(c *Config)
		live   bool
		old    string
		new    string
	}{
		{"name", func(c *Config) { c.Name = 5 }, false, `""`, "00:00:00:00:00:05"},
		{"nickname", func(c *Config) { c.Nickname = "x" }, false, "host", "x"},
		{"listen", func(c *Config) { c.Listen = ":1" }, false, ":6783", ":1"},
		{"bridge.name", func(c *Config) { c.Bridge.Name = "x" }, false, "weave", "x"},
		{"bridge.mtu", func(c *Config) { c.Bridge.MTU = 1400 }, false, "0", "1400"},
		{"bridge.create", func(c *Config) { c.Bridge.Create = false }, false, "true", "false"},
		{"tap.name", func(c *Config) { c.TAP.Name = "x" }, false, "meshd0", "x"},
		{"peers", func(c *Config) { c.Peers = []string{"a", "b"} }, true, "[]", "[a, b]"},
		{"password", func(c *Config) { c.Password = "hunter2" }, true, "(none)", "(set)"},
		{"second password", func(c *Config) { c.OtherPassword = "hunter2" }, true, "(none)", "(set)"},
		{"trust.keys", func(c *Config) { c.Trust.Keys = []identity.Key{{2}} }, true, "[]", "[" + identity.Key{2}.String() + "]"},
		{"trust.stock", func(c *Config) { c.Trust.Stock = true }, true, "false", "true"},
		{"min_protocol", func(c *Config) { c.MinProtocol = 2 }, true, "1", "2"},
		{"state_dir", func(c *Config) { c.StateDir = "/x" }, false, "/var/lib/meshd", "/x"},
		{"trusted_subnets", func(c *Config) { c.TrustedSubnets = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, true, "[]", "[10.0.0.0/8]"},
		{"transports", func(c *Config) { c.Transports = []string{"x"} }, false, "[punch, quic, sleeve, tcp]", "[x]"},
		{"transports", func(c *Config) { c.Transports = []string{"tcp", "sleeve", "punch", "quic"} }, true, "[punch, quic, sleeve, tcp]", "[tcp, sleeve, punch, quic]"},
		{"overrides", func(c *Config) { c.Overrides = []Override{{Name: 5, Transports: []string{"punch"}}} }, true,
			"[]", "[{peer: 00:00:00:00:00:05, transports: [punch]}]"},
		{"discovery", func(c *Config) { c.Discovery = false }, true, "true", "false"},
		{"connection_limit", func(c *Config) { c.ConnectionLimit = 1 }, true, "200", "1"},
		{"expose.route_between", func(c *Config) { c.Expose.RouteBetween = true }, true, "false", "true"},
		{"api.socket", func(c *Config) { c.API.Socket = "/x" }, false, "/run/meshd.sock", "/x"},
		{"api.http", func(c *Config) { c.API.HTTP = ":1" }, false, `""`, ":1"},
		{"log_level", func(c *Config) { c.LogLevel = slog.LevelDebug }, true, "info", "debug"},
	} {
		t.Run(tt.key, func(t *testing.T) {
			old := Default()
			old.Nickname = "host"
			c := old
			tt.change(&c)
			want := []Change{{tt.key, tt.old, tt.new, tt.live}}
			if got := c.Diff(old); !slices.Equal(got, want) {
				t.Errorf("Diff() = %+v, want %+v", got, want)
			}
			if got := strings.Contains(want[0].String(), "restart"); got == tt.live {
				t.Errorf("String() = %q", want[0])
			}
		})
	}
}

func TestDiffOfTheSame(t *testing.T) {
	a, b := Default(), Default()
	a.Peers, b.Peers = nil, []string{}
	a.Password, b.Password = "x", "x"
	b.PasswordFile, b.Warnings = "/elsewhere", []string{"w"}
	if got := append(a.Diff(b), b.Diff(a)...); len(got) != 0 {
		t.Errorf("Diff() = %v, want none", got)
	}
	b.Password = "y"
	if got := b.Diff(a); len(got) != 1 || got[0].New == got[0].Old || strings.Contains(got[0].String(), "y\n") {
		t.Errorf("Diff() of two passwords = %v", got)
	}
}
