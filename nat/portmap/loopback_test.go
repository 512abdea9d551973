package portmap

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"meshd/nat/portmap/portmaptest"
)

// home is a gateway on loopback, real servers on an address of its own:
//
//	us 127.x.y.2 ── lo ── gateway 127.x.y.1: UDP 5351, UDP 1900, TCP
//	                 └─── other 127.x.y.66
type home struct {
	gateway Gateway
	other   netip.Addr
	table   *portmaptest.Table
	pmp     *portmaptest.NATPMP
	igd     *portmaptest.IGD
	web     string // the IGD's HTTP server, http://host:port
}

var homes atomic.Uint32

const external = "203.0.113.5"

var externalAddr = netip.MustParseAddr(external)

func newHome(t *testing.T) *home {
	t.Helper()
	pid := os.Getpid()
	base := [4]byte{127, byte(1 + pid>>8&0x7f), byte(pid), byte(homes.Add(1)) << 2}
	at := func(i byte) netip.Addr { b := base; b[3] += i; return netip.AddrFrom4(b) }
	return &home{
		gateway: Gateway{
			Addr: at(1), Interface: "lo", Local: at(2),
			Link: netip.PrefixFrom(at(0), 30),
		},
		other: at(3),
		table: new(portmaptest.Table),
	}
}

// speakNATPMP starts the gateway's NAT-PMP server.
func (h *home) speakNATPMP(t *testing.T) {
	t.Helper()
	h.pmp = portmaptest.NewNATPMP(h.table, portmaptest.NATPMPSettings{External: externalAddr})
	serve(t, listenUDP(t, h.gateway.Addr, 5351), h.pmp.Serve)
}

// speakUPnP starts its UPnP server.
func (h *home) speakUPnP(t *testing.T) {
	t.Helper()
	h.igd = portmaptest.NewIGD(h.table, portmaptest.IGDSettings{External: external})
	h.web = serveHTTP(t, h.gateway.Addr, h.igd)
	h.igd.Set(func(s *portmaptest.IGDSettings) { s.Locations = []string{h.web + portmaptest.DescriptionPath} })
	serve(t, listenUDP(t, h.gateway.Addr, ssdpPort), h.igd.ServeSSDP)
}

func listenUDP(t *testing.T, addr netip.Addr, port uint16) net.PacketConn {
	t.Helper()
	c, err := net.ListenPacket("udp4", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serve(t *testing.T, c net.PacketConn, f func(net.PacketConn) error) {
	done := make(chan struct{}) // closed by the server
	go func() { f(c); close(done) }()
	t.Cleanup(func() { c.Close(); <-done })
}

func serveHTTP(t *testing.T, addr netip.Addr, h http.Handler) (url string) {
	t.Helper()
	l, err := net.Listen("tcp4", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}

func (h *home) config() Config {
	return Config{Gateways: func() ([]Gateway, error) { return []Gateway{h.gateway}, nil }}
}

// us is where mappings lead to.
func (h *home) us() netip.AddrPort { return netip.AddrPortFrom(h.gateway.Local, DefaultPort) }

// mapped checks that the table is one mapping to us, from this port.
func (h *home) mapped(t *testing.T, external uint16) {
	t.Helper()
	all := h.table.All()
	if len(all) != 1 || all[external].To != h.us() {
		t.Errorf("mappings are %v, want one of port %d to %v", all, external, h.us())
	}
}

func (h *home) empty(t *testing.T) {
	t.Helper()
	if all := h.table.All(); len(all) > 0 {
		t.Errorf("mappings left: %v", all)
	}
}

func (h *home) look(t *testing.T) (*Mapper, found, error) {
	t.Helper()
	m := New(h.config())
	start := time.Now()
	f, err := m.look(t.Context(), []Gateway{h.gateway})
	if took := time.Since(start); took > lookTime+2*time.Second {
		t.Errorf("looking took %v", took)
	}
	return m, f, err
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestWhichProtocol(t *testing.T) {
	tests := []struct {
		name      string
		pmp, upnp bool
		quiet     bool // NAT-PMP's port is open and silent
		want      string
	}{
		{"both", true, true, false, NATPMP},
		{"NAT-PMP only", true, false, false, NATPMP},
		{"UPnP only", false, true, false, UPnP},
		{"UPnP beside silence", true, true, true, UPnP},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			if tt.pmp {
				h.speakNATPMP(t)
				h.pmp.Set(func(s *portmaptest.NATPMPSettings) { s.Silent = tt.quiet })
			}
			if tt.upnp {
				h.speakUPnP(t)
			}
			_, f, err := h.look(t)
			if err != nil {
				t.Fatal(err)
			}
			want := lease{netip.AddrPortFrom(externalAddr, DefaultPort), DefaultLifetime}
			if f.asker.protocol() != tt.want || f.lease != want {
				t.Errorf("look = %v by %s, want %v by %s", f.lease, f.asker.protocol(), want, tt.want)
			}
			h.mapped(t, DefaultPort)
			addr, err := f.asker.check(within(t, lookTime))
			if err != nil || addr != externalAddr {
				t.Errorf("check = %v, %v, want %v", addr, err, externalAddr)
			}
			if err := f.asker.remove(within(t, exitTime)); err != nil {
				t.Error(err)
			}
			h.empty(t)
		})
	}
}

func TestNobodyForwards(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	_, _, err := h.look(t)
	want := fmt.Sprintf("gateway %s forwards no port for us: NAT-PMP: not spoken there; UPnP: no answer", h.gateway.Addr)
	if err == nil || err.Error() != want {
		t.Errorf("look = %v, want %s", err, want)
	}
}

func TestGatewayRefused(t *testing.T) {
	h := newHome(t)
	h.speakNATPMP(t)
	cfg := h.config()
	cfg.Refuse = func(netip.Addr) string { return "it lies on the overlay" }
	_, err := New(cfg).look(t.Context(), []Gateway{h.gateway})
	want := fmt.Sprintf("gateway %s is not asked: it lies on the overlay", h.gateway.Addr)
	if err == nil || err.Error() != want {
		t.Errorf("look = %v, want %s", err, want)
	}
	if _, err := New(cfg).look(t.Context(), nil); err != errNoGateway {
		t.Errorf("look at no gateway = %v, want %v", err, errNoGateway)
	}
	h.empty(t)
}
