package portmap

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"meshd/nat/portmap/portmaptest"
)

type igdSettings = portmaptest.IGDSettings

func newUPnPHome(t *testing.T, change func(*igdSettings)) (*home, *upnp) {
	h := newHome(t)
	h.speakUPnP(t)
	h.igd.Set(change)
	return h, newUPnP(h.gateway, DefaultPort)
}

var wholeLease = lease{netip.AddrPortFrom(externalAddr, DefaultPort), time.Hour}

func TestUPnPAnswers(t *testing.T) {
	tests := []struct {
		name   string
		change func(*igdSettings)
		want   lease
		err    string // in it
	}{
		{"version 1", func(s *igdSettings) {}, wholeLease, ""},
		{"version 2", func(s *igdSettings) { s.Version, s.Services = 2, []string{portmaptest.WANIP2} }, wholeLease, ""},
		{"PPP", func(s *igdSettings) { s.Services = []string{portmaptest.WANPPP1} }, wholeLease, ""},
		{
			"several services",
			func(s *igdSettings) { s.Services = []string{portmaptest.WANPPP1, portmaptest.WANIP1} }, wholeLease, "",
		},
		{
			"permanent mappings only", func(s *igdSettings) { s.PermanentOnly = true },
			lease{wholeLease.external, 0}, "",
		},
		{
			"short mappings only", func(s *igdSettings) { s.MaxLease = time.Minute },
			lease{wholeLease.external, time.Minute}, "",
		},
		{"no lookup", func(s *igdSettings) { s.NoLookup = true }, wholeLease, ""},
		{"a lookup that names hosts", func(s *igdSettings) { s.LookupAnswers = "weave01" }, wholeLease, ""},
		{"a lookup that lies", func(s *igdSettings) { s.LookupAnswers = "127.9.9.9" }, wholeLease, ""},
		{
			"a URL base", func(s *igdSettings) {
				s.URLBase = strings.TrimSuffix(s.Locations[0], portmaptest.DescriptionPath)
			}, wholeLease, "",
		},
		{"a wrong URL base", func(s *igdSettings) { s.URLBase = "http://192.168.0.1:80/" }, wholeLease, ""},
		{
			"a lie is passed on", func(s *igdSettings) { s.External = "224.0.0.1" },
			lease{netip.MustParseAddrPort("224.0.0.1:6785"), time.Hour}, "",
		},
		{"not connected", func(s *igdSettings) { s.External = "0.0.0.0" }, lease{}, "no external address"},
		{"no address", func(s *igdSettings) { s.External = "" }, lease{}, "no external address"},
		{"IPv6", func(s *igdSettings) { s.External = "2001:db8::1" }, lease{}, "no external address"},
		{"no service", func(s *igdSettings) { s.Services = []string{"urn:x"} }, lease{}, "connects to no internet"},
		{"always taken", func(s *igdSettings) { s.TakenPorts = 100 }, lease{}, "taken (718)"},
		{"huge description", func(s *igdSettings) { s.Padding = 10 << 20 }, lease{}, errTooLarge.Error()},
		{"a large one", func(s *igdSettings) { s.Padding = 100 << 10 }, wholeLease, ""},
		{"not found", func(s *igdSettings) { s.Locations[0] += "x" }, lease{}, "status 404"},
		{"several devices", func(s *igdSettings) {
			s.Locations = append([]string{s.Locations[0] + "x"}, s.Locations...)
		}, wholeLease, ""},
		{"too many devices", func(s *igdSettings) {
			for range 5 {
				s.Locations = append([]string{s.Locations[0] + "x"}, s.Locations...)
			}
		}, lease{}, "status 404"},
		{"hangs", func(s *igdSettings) { s.Hang = true }, lease{}, "deadline"},
		{"silent", func(s *igdSettings) { s.Silent = true }, lease{}, "no answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, u := newUPnPHome(t, tt.change)
			start := time.Now()
			got, err := u.add(within(t, lookTime), DefaultPort, time.Hour)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("add = %v, %v, want %v, %q", got, err, tt.want, tt.err)
			}
			if took := time.Since(start); took > lookTime+2*time.Second {
				t.Errorf("add took %v", took)
			}
			if tt.err != "" {
				h.empty(t)
				return
			}
			h.mapped(t, DefaultPort)
			if e, _ := h.table.Get(DefaultPort); e.Expires.IsZero() != (tt.want.lifetime == 0) {
				t.Errorf("it expires at %v, want after %v", e.Expires, tt.want.lifetime)
			}
			if addr, err := u.check(within(t, lookTime)); err != nil || addr != tt.want.external.Addr() {
				t.Errorf("check = %v, %v, want %v", addr, err, tt.want.external.Addr())
			}
			if again, err := u.add(within(t, lookTime), DefaultPort, time.Hour); err != nil || again != tt.want {
				t.Errorf("renewal = %v, %v, want %v", again, err, tt.want)
			}
			if err := u.remove(within(t, exitTime)); err != nil {
				t.Error(err)
			}
			h.empty(t)
		})
	}
}

// The search is over once the gateway has answered.
func TestUPnPIsQuick(t *testing.T) {
	_, u := newUPnPHome(t, func(*igdSettings) {})
	start := time.Now()
	if _, err := u.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > searchTime {
		t.Errorf("add took %v, as long as the whole search", took)
	}
}

func TestUPnPConflict(t *testing.T) {
	somebody := netip.MustParseAddrPort("127.9.9.9:6785")
	tests := []struct {
		name   string
		change func(*igdSettings)
		taken  bool // by somebody
	}{
		{"another host has the port", func(*igdSettings) {}, true},
		{"and the gateway knows no lookup", func(s *igdSettings) { s.NoLookup = true }, true},
		{"718, 718", func(s *igdSettings) { s.TakenPorts = 2 }, false},
		{"718 three times", func(s *igdSettings) { s.TakenPorts = 3 }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, u := newUPnPHome(t, tt.change)
			if tt.taken {
				h.table.Put(DefaultPort, portmaptest.Entry{To: somebody})
			}
			got, err := u.add(within(t, lookTime), DefaultPort, time.Hour)
			if err != nil || got.external.Port() < 49152 {
				t.Fatalf("add = %v, %v, want a dynamic port", got, err)
			}
			if e, ok := h.table.Get(got.external.Port()); !ok || e.To != h.us() {
				t.Errorf("port %d leads to %v, want %v", got.external.Port(), e.To, h.us())
			}
			if again, err := u.add(within(t, lookTime), got.external.Port(), time.Hour); err != nil || again != got {
				t.Errorf("renewal = %v, %v, want %v", again, err, got)
			}
			if err := u.remove(within(t, exitTime)); err != nil {
				t.Error(err)
			}
			if e, ok := h.table.Get(DefaultPort); ok != tt.taken || ok && e.To != somebody {
				t.Errorf("port %d leads to %v after all, %v", DefaultPort, e.To, ok)
			}
		})
	}
}

// Some gateways refuse to renew, and have to be asked to forget first.
func TestUPnPRenewalConflict(t *testing.T) {
	h, u := newUPnPHome(t, func(s *igdSettings) { s.RenewalConflict = true })
	for range 2 {
		if got, err := u.add(within(t, lookTime), DefaultPort, time.Hour); err != nil || got != wholeLease {
			t.Errorf("add = %v, %v, want %v", got, err, wholeLease)
		}
		h.mapped(t, DefaultPort)
	}
}

func TestUPnPLost(t *testing.T) {
	tests := []struct {
		name string
		do   func(*portmaptest.Table)
	}{
		{"reboot", (*portmaptest.Table).Clear},
		{"taken by another host", func(table *portmaptest.Table) {
			table.Put(DefaultPort, portmaptest.Entry{To: netip.MustParseAddrPort("127.9.9.9:6785")})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, u := newUPnPHome(t, func(*igdSettings) {})
			if _, err := u.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
				t.Fatal(err)
			}
			tt.do(h.table)
			if _, err := u.check(within(t, lookTime)); !errors.Is(err, errLost) {
				t.Errorf("check = %v, want %v", err, errLost)
			}
			if u.asked() != 0 {
				t.Error("it would remove what is not its own")
			}
		})
	}
}

// trap is an HTTP server that must not be asked.
type trap struct{ hits atomic.Int32 }

func (p *trap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.hits.Add(1)
	http.Error(w, "no", http.StatusTeapot)
}

// Nobody makes us ask somebody else than the gateway, or who answered.
func TestUPnPThirdParty(t *testing.T) {
	tests := []struct {
		name   string
		change func(s *igdSettings, third string) // third: a URL
		err    string
	}{
		{
			"location", func(s *igdSettings, third string) { s.Locations = []string{third + "/rootDesc.xml"} },
			"points to",
		},
		{
			"location by name", func(s *igdSettings, third string) {
				u, _ := url.Parse(third)
				s.Locations = []string{"http://localhost:" + u.Port() + "/"}
			}, "no IPv4 address",
		},
		{
			"location as user", func(s *igdSettings, third string) {
				s.Locations = []string{strings.Replace(s.Locations[0], "//", "//x:y@", 1)}
			}, "not plain http",
		},
		{"location of a file", func(s *igdSettings, _ string) { s.Locations = []string{"file:///etc/passwd"} }, "not plain http"},
		{"no location", func(s *igdSettings, _ string) { s.Locations = []string{""} }, "no location"},
		{"control URL", func(s *igdSettings, third string) { s.Control = third + portmaptest.ControlPath }, "another host"},
		{"control URL by name", func(s *igdSettings, third string) { s.Control = "http://localhost/" }, "another host"},
		{"redirect", func(s *igdSettings, third string) { s.Redirect = third }, "status 307"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var third trap
			h := newHome(t)
			h.speakUPnP(t)
			where := serveHTTP(t, h.other, &third)
			h.igd.Set(func(s *igdSettings) { tt.change(s, where) })
			_, err := newUPnP(h.gateway, DefaultPort).add(within(t, lookTime), DefaultPort, time.Hour)
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("add = %v, want %q", err, tt.err)
			}
			if n := third.hits.Load(); n > 0 {
				t.Errorf("a third party was asked %d times", n)
			}
			h.empty(t)
		})
	}
}

// A control URL on the gateway that redirects is not followed either.
func TestUPnPControlRedirect(t *testing.T) {
	var third trap
	h, u := newUPnPHome(t, func(*igdSettings) {})
	if _, err := u.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
		t.Fatal(err)
	}
	where := serveHTTP(t, h.other, &third)
	h.igd.Set(func(s *igdSettings) { s.Redirect = where })
	if _, err := u.check(within(t, lookTime)); err == nil {
		t.Error("check followed a redirect")
	}
	if n := third.hits.Load(); n > 0 {
		t.Errorf("a third party was asked %d times", n)
	}
}

// The client connects to its one address, whatever the URL says.
func TestHTTPClientConnectsToOne(t *testing.T) {
	var third trap
	h := newHome(t)
	where := serveHTTP(t, h.other, &third)
	client := newHTTPClient(h.gateway, h.gateway.Addr)
	if resp, err := client.Get(where); err == nil {
		resp.Body.Close()
		t.Error("it connected to another address")
	}
	if n := third.hits.Load(); n > 0 {
		t.Errorf("a third party was asked %d times", n)
	}
	t.Setenv("HTTP_PROXY", where)
	if resp, err := client.Get("http://" + netip.AddrPortFrom(h.gateway.Addr, 1).String()); err == nil {
		resp.Body.Close()
		t.Error("it used a proxy")
	}
}

// A port that has become another host's is left to it.
func TestUPnPRemoveSparesOthers(t *testing.T) {
	h, u := newUPnPHome(t, func(*igdSettings) {})
	if _, err := u.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
		t.Fatal(err)
	}
	h.table.Put(DefaultPort, portmaptest.Entry{To: netip.MustParseAddrPort("127.9.9.9:6785")})
	if err := u.remove(within(t, exitTime)); err != nil || len(h.table.All()) != 1 || u.asked() != 0 {
		t.Errorf("remove: %v, left %v", err, h.table.All())
	}
}

// remove goes on until the time is over.
func TestUPnPRemoveTries(t *testing.T) {
	h, u := newUPnPHome(t, func(s *igdSettings) { s.PermanentOnly = true })
	if _, err := u.add(within(t, lookTime), DefaultPort, time.Hour); err != nil {
		t.Fatal(err)
	}
	h.igd.Set(func(s *igdSettings) { s.Redirect = h.web })
	time.AfterFunc(300*time.Millisecond, func() { h.igd.Set(func(s *igdSettings) { s.Redirect = "" }) })
	if err := u.remove(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
	h.empty(t)
}
