package portmap

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"meshd/nat/portmap/portmaptest"
)

var testGateway = Gateway{
	Addr:  netip.MustParseAddr("192.168.7.1"),
	Local: netip.MustParseAddr("192.168.7.2"),
	Link:  netip.MustParsePrefix("192.168.7.0/24"),
}

func answerTo(location string) []byte {
	return []byte("HTTP/1.1 200 OK\r\nST: " + searched[0] + "\r\nLOCATION: " + location + "\r\n\r\n")
}

func TestAccept(t *testing.T) {
	alone := testGateway
	alone.Link = netip.MustParsePrefix("192.168.7.1/32")
	tests := []struct {
		name         string
		gateway      Gateway
		answer, from string
		want         string // host; "": refused
	}{
		{"the gateway", testGateway, "http://192.168.7.1:5000/d.xml", "192.168.7.1", "192.168.7.1"},
		{"another host on the link", testGateway, "http://192.168.7.9/d.xml", "192.168.7.9", "192.168.7.9"},
		{"who points to the gateway", testGateway, "http://192.168.7.1/d.xml", "192.168.7.9", "192.168.7.1"},
		{"who points to a third one", testGateway, "http://192.168.7.8/d.xml", "192.168.7.9", ""},
		{"a gateway that does", testGateway, "http://192.168.7.8/d.xml", "192.168.7.1", ""},
		{"who points outside", testGateway, "http://203.0.113.9/d.xml", "192.168.7.9", ""},
		{"who is outside", testGateway, "http://203.0.113.9/d.xml", "203.0.113.9", ""},
		{"who is outside and points in", testGateway, "http://192.168.7.1/d.xml", "203.0.113.9", ""},
		{"we ourselves", testGateway, "http://192.168.7.2/d.xml", "192.168.7.2", ""},
		{"a gateway alone on its link", alone, "http://192.168.7.1/d.xml", "192.168.7.1", "192.168.7.1"},
		{"another beside it", alone, "http://192.168.7.9/d.xml", "192.168.7.9", ""},
		{"a name", testGateway, "http://router.lan/d.xml", "192.168.7.1", ""},
		{"https", testGateway, "https://192.168.7.1/d.xml", "192.168.7.1", ""},
		{"a user", testGateway, "http://a:b@192.168.7.1/d.xml", "192.168.7.1", ""},
		{"a number", testGateway, "http://3232237313/d.xml", "192.168.7.1", ""},
		{"IPv6", testGateway, "http://[::ffff:192.168.7.1]/d.xml", "192.168.7.1", ""},
		{"a path", testGateway, "/d.xml", "192.168.7.1", ""},
		{"nothing", testGateway, "", "192.168.7.1", ""},
	}
	for _, tt := range tests {
		got, err := tt.gateway.accept(answerTo(tt.answer), netip.MustParseAddr(tt.from))
		if tt.want == "" && err == nil || tt.want != "" && (err != nil || got.host.String() != tt.want) {
			t.Errorf("%s: accept = %v, %v, want %q", tt.name, got.host, err, tt.want)
		}
	}
	for _, answer := range []string{"", "x", "HTTP/1.1 404 No\r\nLOCATION: http://192.168.7.1/\r\n\r\n", "HTTP/1.1 200 OK\r\nLOCATION: http://192.168.7.1/"} {
		if got, err := testGateway.accept([]byte(answer), testGateway.Addr); err == nil {
			t.Errorf("accept(%q) = %v, want an error", answer, got.url)
		}
	}
}

// A flood of answers neither fills the memory nor lasts.
func TestSearchFlood(t *testing.T) {
	h := newHome(t)
	h.speakUPnP(t)
	h.igd.Set(func(s *igdSettings) {
		s.Locations = nil
		for range 1000 {
			s.Locations = append(s.Locations, "http://203.0.113.9/x")
		}
	})
	found, err := search(t.Context(), h.gateway)
	if len(found) > 0 || err == nil || len(err.Error()) > 2*maxWords {
		t.Errorf("search = %v, %v", found, err)
	}
}

func TestSearchOrder(t *testing.T) {
	h := newHome(t)
	h.speakUPnP(t)
	found, err := search(t.Context(), h.gateway)
	if err != nil || len(found) != 1 || found[0].host != h.gateway.Addr {
		t.Errorf("search = %v, %v, want the gateway's location", found, err)
	}
}

func TestLineError(t *testing.T) {
	err := inOneLine([]error{errSilent, nil, errTooLarge})
	if got, want := err.Error(), errSilent.Error()+"; "+errTooLarge.Error(); got != want {
		t.Errorf("inOneLine = %q, want %q", got, want)
	}
	long := lineError{&url.Error{Op: "x", URL: "\x1b[2J" + strings.Repeat("ä", 1000), Err: errSilent}}
	if got := long.Error(); len(got) > maxWords+len("…") || strings.ContainsRune(got, '\x1b') {
		t.Errorf("long words are %d bytes: %q", len(got), got)
	}
}

func FuzzAccept(f *testing.F) {
	f.Add(answerTo("http://192.168.7.1:5000/d.xml"), true)
	f.Add(answerTo("http://192.168.7.9/"), false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\nLocation: //192.168.7.1\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, answer []byte, gateway bool) {
		from := netip.MustParseAddr("192.168.7.9")
		if gateway {
			from = testGateway.Addr
		}
		l, err := testGateway.accept(answer, from)
		if err == nil && (l.host != from && l.host != testGateway.Addr || l.url.Hostname() != l.host.String()) {
			t.Errorf("accepted %v of %v", l.url, from)
		}
	})
}

func FuzzDescription(f *testing.F) {
	u, _ := url.Parse("http://192.168.7.1:5000/rootDesc.xml")
	l := location{u, testGateway.Addr}
	f.Add(`<root xmlns="urn:schemas-upnp-org:device-1-0"><URLBase>http://192.168.7.1/</URLBase><device><serviceList>` +
		`<service><serviceType>` + portmaptest.WANIP1 + `</serviceType><controlURL>ctl</controlURL></service>` +
		`</serviceList></device></root>`)
	f.Add(`<?xml version="1.0" encoding="iso-8859-1"?><root><device></device></root>`)
	client := newHTTPClient(testGateway, l.host)
	f.Fuzz(func(t *testing.T, text string) {
		root, err := parseDescription(strings.NewReader(text), l)
		if err != nil {
			return
		}
		for _, s := range root.Device.FindService(portmaptest.WANIP1) {
			host, err := hostOf(&s.ControlURL.URL)
			conns, _ := connections(root, l, client)
			if (err != nil || host != l.host) && len(conns) == len(root.Device.FindService(portmaptest.WANIP1)) {
				t.Errorf("%v became a client", &s.ControlURL.URL)
			}
		}
	})
}
