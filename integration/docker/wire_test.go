package docker

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Lengths of what is seen on the wire, in bytes.
const (
	ipHeader  = 20
	udpHeader = 8
	// sleeveHeader is a sender's name, and before each frame the names of two peers and
	// its length (weave protocol, section 6.2).
	sleeveHeader = 6 + 6 + 6 + 2
	// punchHeader is what docs/protocol.md says one frame costs.
	punchHeader = 45
	// pingFrame is the frame of a ping with 56 bytes.
	pingFrame = 14 + ipHeader + 8 + 56
)

// datagram is an IPv4 packet that was captured.
type datagram struct {
	length   int // of the packet
	df       bool
	ttl      byte
	protocol byte
	src, dst netip.AddrPort // without ports where it is not UDP
	payload  []byte         // of UDP
}

const protocolUDP = 17

// parseDatagram takes an Ethernet frame; ok is false where it is not IPv4, or is TCP,
// which carries the control connections, or a fragment that is not the first.
func parseDatagram(frame []byte) (d datagram, ok bool) {
	if len(frame) < 14+ipHeader || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return d, false
	}
	p := frame[14:]
	d = datagram{
		length: int(binary.BigEndian.Uint16(p[2:])), df: p[6]&0x40 != 0, ttl: p[8], protocol: p[9],
		src: netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[12:])), 0),
		dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[16:])), 0),
	}
	if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
		return d, false
	}
	body := p[min(int(p[0]&15)*4, len(p)):]
	if d.protocol != protocolUDP || len(body) < udpHeader {
		return d, d.protocol != 6
	}
	d.src = netip.AddrPortFrom(d.src.Addr(), binary.BigEndian.Uint16(body))
	d.dst = netip.AddrPortFrom(d.dst.Addr(), binary.BigEndian.Uint16(body[2:]))
	d.payload = body[udpHeader:max(udpHeader, min(int(binary.BigEndian.Uint16(body[4:])), len(body)))]
	return d, true
}

func (d datagram) String() string {
	return fmt.Sprintf("protocol %d, %v > %v, %d bytes, DF %t, TTL %d", d.protocol, d.src, d.dst, d.length, d.df, d.ttl)
}

// capture collects what reaches the host by eth0, but for TCP.
func (h *host) capture() {
	h.w.Helper()
	c, err := h.Capture("eth0", func(frame []byte) bool {
		_, ok := parseDatagram(frame)
		return ok
	})
	h.w.must(err)
	h.wire = c
}

// received is what has reached the host by eth0 so far, after the first n datagrams.
func (h *host) received(n int) []datagram {
	var list []datagram
	for _, frame := range h.wire.Frames()[n:] {
		d, _ := parseDatagram(frame)
		list = append(list, d)
	}
	return list
}

// mark is where received goes on from.
func (h *host) mark() int { return len(h.wire.Frames()) }

// sized are those of the datagrams which have that length.
func sized(list []datagram, length int) (out []datagram) {
	for _, d := range list {
		if d.length == length {
			out = append(out, d)
		}
	}
	return out
}

// view is what the test takes of mesh status --json.
type view struct {
	Name        string
	Connections []struct {
		Name, Address string
		Transport     string
		Paths         []struct {
			Transport string
			Active    bool
			MTU       int
			RTT       *float64 `json:"rtt_ms"`
		}
	}
}

func (h *host) status() (v view, err error) {
	out, err := h.try("mesh", "status", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &v)
	}
	return v, err
}

// wire is what tcpdump showed in the story, and what it shows with the transports of
// meshd's own.
func wire(w *world) {
	names := map[*host]string{}
	for _, h := range w.hosts {
		v, err := h.status()
		w.must(err)
		names[h] = v.Name
	}
	heartbeats(w, names)
	punched(w)
	onBridge(w)
	sleeved(w, names)
	for _, h := range w.hosts {
		onlyOurs(w, h)
		w.must(h.wire.Close())
	}
}

// heartbeats looks for those of weave01 and each other host: from port 6783 to 6783, 70
// bytes with DF set, of which 42 are the names and a frame of 14 zero bytes and the
// connection's UID, the same in both directions.
func heartbeats(w *world, names map[*host]string) {
	for _, other := range w.hosts[1:] {
		there, here := other.heartbeatsTo(w.weave01, names), w.weave01.heartbeatsTo(other, names)
		if !slices.ContainsFunc(there, func(uid string) bool { return slices.Contains(here, uid) }) {
			w.Errorf("weave01 received heartbeats of %s with the UIDs %x, and it those of weave01 with %x, want one in common", other.name, there, here)
		}
	}
}

// heartbeatsTo lists the UIDs of the heartbeats from a host that another one received.
func (h *host) heartbeatsTo(to *host, names map[*host]string) (uids []string) {
	h.w.Helper()
	begin := string(sleeveDatagram(names[h], names[h], names[to], make([]byte, 22))[:sleeveHeader+14])
	for _, d := range sized(to.received(0), 70) {
		if uid, ok := strings.CutPrefix(string(d.payload), begin); ok {
			uids = append(uids, uid)
			if err := h.sends(d, to, 6783); err != nil {
				h.w.Error(err)
			}
		}
	}
	return uids
}

// sends is an error unless h sent d to a port of another host's from the same port of its
// own, as what must not be cut into fragments. It has passed the router if they are not
// in one LAN.
func (h *host) sends(d datagram, to *host, port uint16) error {
	hops := byte(0)
	if (h.name == "weave03") != (to.name == "weave03") {
		hops = 1
	}
	want := datagram{
		length: d.length, df: true, ttl: 64 - hops, protocol: protocolUDP,
		src: netip.AddrPortFrom(netip.MustParseAddr(h.addr), port), dst: netip.AddrPortFrom(netip.MustParseAddr(to.addr), port),
	}
	if d.String() != want.String() {
		return fmt.Errorf("captured %v, want %v", d, want)
	}
	return nil
}

// sleeveDatagram is a plain one with one frame.
func sleeveDatagram(sender, src, dst string, frame []byte) []byte {
	b := append(octets(sender), octets(src)...)
	b = append(b, octets(dst)...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(frame)))
	return append(b, frame...)
}

// octets is a MAC address or a peer's name as bytes.
func octets(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// punched looks at pings over the transport in use when nobody asks for another: each
// frame is one datagram of port 6785, 45 bytes longer than the frame.
func punched(w *world) {
	const length = ipHeader + udpHeader + punchHeader + pingFrame
	for _, from := range w.hosts[1:] {
		here, there := w.weave01.mark(), from.mark()
		w.must(from.pings([]string{"docker", "exec", clientOf(from)}, httpd))
		for _, way := range []struct {
			from, to *host
			list     []datagram
		}{{from, w.weave01, w.weave01.received(here)}, {w.weave01, from, from.received(there)}} {
			list := sized(way.list, length)
			if len(list) != 1 {
				w.Errorf("a ping of %s: %s received %d datagrams of %d bytes, want one: %v", from.name, way.to.name, len(list), length, way.list)
				continue
			}
			if err := way.from.sends(list[0], way.to, 6785); err != nil {
				w.Error(err)
			}
			if kind := list[0].payload[0]; kind&0xc0 != 0x80 {
				w.Errorf("the datagram begins with %#x, which is none of punch", kind)
			}
		}
	}
	v, err := w.weave01.status()
	w.must(err)
	mtus := map[string]int{"punch": 1500 - ipHeader - udpHeader - punchHeader - 14, "sleeve": 1500 - 62}
	for _, c := range v.Connections {
		for _, p := range c.Paths {
			if want := mtus[p.Transport]; want != 0 && p.MTU != want {
				w.Errorf("over %s the MTU to %s is %d, want %d", p.Transport, c.Name, p.MTU, want)
			}
		}
	}
}

// clientOf is the container on a host that is not the service.
func clientOf(h *host) string { return "client" + strings.TrimPrefix(h.name, "weave0") }

// onBridge sees that between containers of a host nothing leaves it. The pings are of a
// length that nothing else has.
func onBridge(w *world) {
	const payload = 777
	const length = ipHeader + udpHeader + punchHeader + pingFrame - 56 + payload
	ping := func(h *host) {
		w.Helper()
		h.do("docker", "exec", clientOf(h), "ping", "-c", "1", "-W", "2", "-s", fmt.Sprint(payload), httpd)
	}
	ping(w.weave01)
	for _, h := range w.hosts {
		if list := sized(h.received(0), length); len(list) > 0 {
			w.Errorf("a ping between containers of weave01 is seen on eth0 of %s: %v", h.name, list)
		}
	}
	ping(w.weave02)
	if list := sized(w.weave01.received(0), length); len(list) != 1 {
		w.Errorf("a ping from weave02 is seen %d times on eth0 of weave01, want once", len(list))
	}
}

// sleeved has weave01 and weave02 use Weave's own transport, and looks at a ping as the
// story did: 84 bytes of it are 146 on the wire, in one datagram from port 6783 to 6783
// whose 118 bytes are the sender's name, the two peers, a length and the frame.
func sleeved(w *world, names map[*host]string) {
	pair := []*host{w.weave01, w.weave02}
	use := func(transport string) {
		for i, h := range pair {
			h.do("mesh", "transport", "use", pair[1-i].name, transport)
		}
	}
	use("sleeve")
	w.eventually("weave01 and weave02 use sleeve", func() error {
		for i, h := range pair {
			v, err := h.status()
			if err != nil {
				return err
			}
			for _, c := range v.Connections {
				if c.Name == names[pair[1-i]] && c.Transport != "sleeve" {
					return fmt.Errorf("%s uses %s", h.name, c.Transport)
				}
			}
		}
		return nil
	})
	here := w.weave01.mark()
	w.must(w.weave02.pings([]string{"docker", "exec", "client2"}, httpd))
	list := sized(w.weave01.received(here), 146)
	if len(list) != 1 {
		w.Fatalf("weave01 received %d datagrams of 146 bytes, want one: %v", len(list), w.weave01.received(here))
	}
	d := list[0]
	if err := w.weave02.sends(d, w.weave01, 6783); err != nil {
		w.Error(err)
	}
	if len(d.payload) != 118 {
		w.Fatalf("the datagram has %d bytes, want 118: %x", len(d.payload), d.payload)
	}
	frame := d.payload[sleeveHeader:]
	if want := sleeveDatagram(names[w.weave02], names[w.weave02], names[w.weave01], frame); string(d.payload) != string(want) {
		w.Errorf("the datagram is %x, want %x", d.payload, want)
	}
	ethernet := append(octets(w.weave01.ethwe("httpd")), octets(w.weave02.ethwe("client2"))...)
	ethernet = append(ethernet, 0x08, 0x00)
	if !strings.HasPrefix(string(frame), string(ethernet)) {
		w.Errorf("the frame is %x, want it to begin with %x", frame, ethernet)
	}
	inner, ok := parseDatagram(frame)
	want := fmt.Sprintf("protocol 1, %s:0 > %s:0, 84 bytes, DF true, TTL 64", "192.168.99.21", httpd)
	if !ok || inner.String() != want {
		w.Errorf("the frame is %v, want %s", inner, want)
	}
	use("auto")
}

// ethwe is the MAC address of a container on the overlay.
func (h *host) ethwe(container string) string {
	h.w.Helper()
	return h.do("docker", "exec", container, "cat", "/sys/class/net/ethwe/address")
}

// onlyOurs sees that what has come in since the launch is datagrams of the ports that are
// to be opened: no GRE, no VXLAN.
func onlyOurs(w *world, h *host) {
	const icmp = 1
	open := map[uint16]bool{6783: true, 6785: true, 6786: true}
	for _, d := range h.received(0) {
		if d.protocol == icmp || d.dst.Addr().IsMulticast() {
			continue
		}
		if d.protocol != protocolUDP || !open[d.src.Port()] || !open[d.dst.Port()] {
			w.Errorf("%s received %v, want UDP between the ports 6783, 6785 and 6786", h.name, d)
		}
	}
}
