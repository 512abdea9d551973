package portmaptest

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Paths of the IGD's HTTP server.
const (
	DescriptionPath = "/rootDesc.xml"
	ControlPath     = "/ctl/IPConn"
)

// The services that an IGD may have.
const (
	WANIP1  = "urn:schemas-upnp-org:service:WANIPConnection:1"
	WANIP2  = "urn:schemas-upnp-org:service:WANIPConnection:2"
	WANPPP1 = "urn:schemas-upnp-org:service:WANPPPConnection:1"
)

const deviceURN = "urn:schemas-upnp-org:device:InternetGatewayDevice:"

// Error codes of WANIPConnection:1.
const (
	invalidAction = 401
	noSuchEntry   = 714
	conflict      = 718
	permanentOnly = 725
)

// IGD is a gateway that speaks UPnP. Its methods may be called concurrently.
type IGD struct {
	Table *Table

	mu       sync.Mutex // guards what follows
	settings IGDSettings
	calls    []string
}

// IGDSettings say how the gateway answers.
type IGDSettings struct {
	External string // what it says that its address is
	Version  int    // of its device; 0: 1
	Services []string
	// PermanentOnly refuses mappings that end: error 725.
	PermanentOnly bool
	// TakenPorts is how many requests for a mapping are refused: error 718.
	TakenPorts int
	// MaxLease, if not 0, is the longest lifetime; a longer one is cut.
	MaxLease time.Duration
	// RenewalConflict takes a renewal for a conflict.
	RenewalConflict bool
	// NoLookup knows no GetSpecificPortMappingEntry.
	NoLookup bool
	// LookupAnswers replaces the client in answers to a lookup.
	LookupAnswers string
	// Locations are where answers to a search point to.
	Locations []string
	// URLBase and Control go into the description; Control "" is ControlPath.
	URLBase, Control string
	// Padding is that many bytes more of description.
	Padding int
	// Redirect is where every request is redirected to; "": none is.
	Redirect string
	// Hang keeps HTTP requests without an answer; Silent searches too.
	Hang, Silent bool
}

// NewIGD makes a gateway.
func NewIGD(t *Table, s IGDSettings) *IGD { return &IGD{Table: t, settings: s} }

// Set changes how it answers.
func (g *IGD) Set(change func(*IGDSettings)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.settings)
}

// Calls are what it was asked over HTTP, in order: paths and SOAP actions.
func (g *IGD) Calls() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.calls)
}

// Count is how many of the Calls are this one.
func (g *IGD) Count(call string) int {
	n := 0
	for _, c := range g.Calls() {
		if c == call {
			n++
		}
	}
	return n
}

// ServeSSDP answers searches on c until c is closed.
func (g *IGD) ServeSSDP(c net.PacketConn) error {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(buf[:n])))
		if err != nil || req.Method != "M-SEARCH" || req.Header.Get("MAN") != `"ssdp:discover"` {
			continue
		}
		for _, answer := range g.answers(req.Header.Get("ST")) {
			c.WriteTo([]byte(answer), from) // one that does not arrive is asked for again
		}
	}
}

func (g *IGD) answers(target string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settings.Silent || target != fmt.Sprint(deviceURN, max(g.settings.Version, 1)) {
		return nil
	}
	var all []string
	for _, l := range g.settings.Locations {
		all = append(all, "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: "+target+
			"\r\nUSN: uuid:4d696e69-444c-164e-9d41-000000000001::"+target+
			"\r\nEXT:\r\nSERVER: test UPnP/1.1 portmaptest\r\nLOCATION: "+l+"\r\n\r\n")
	}
	return all
}

// ServeHTTP serves the description and the services.
func (g *IGD) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	action := r.URL.Path
	if _, a, ok := strings.Cut(strings.Trim(r.Header.Get("SOAPACTION"), `"`), "#"); ok {
		action = a
	}
	g.mu.Lock()
	g.calls = append(g.calls, action)
	s := g.settings
	g.mu.Unlock()
	switch {
	case s.Hang || s.Silent:
		<-r.Context().Done()
	case s.Redirect != "":
		http.Redirect(w, r, s.Redirect, http.StatusTemporaryRedirect)
	case r.Method == http.MethodGet && r.URL.Path == DescriptionPath:
		io.WriteString(w, describe(s))
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, ControlPath):
		from := netip.MustParseAddrPort(r.RemoteAddr).Addr()
		g.act(w, r, action, from)
	default:
		http.NotFound(w, r)
	}
}

func describe(s IGDSettings) string {
	var b strings.Builder
	device := func(name string, inner func()) {
		fmt.Fprintf(&b, "<device><deviceType>urn:schemas-upnp-org:device:%s:%d</deviceType>"+
			"<friendlyName>test</friendlyName>", name, max(s.Version, 1))
		inner()
		b.WriteString("</device>")
	}
	list := func(inner func()) { b.WriteString("<deviceList>"); inner(); b.WriteString("</deviceList>") }
	b.WriteString(`<?xml version="1.0"?>` + "\r\n" +
		`<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>1</minor></specVersion>`)
	if s.URLBase != "" {
		fmt.Fprintf(&b, "<URLBase>%s</URLBase>", s.URLBase)
	}
	if s.Padding > 0 {
		fmt.Fprintf(&b, "<!-- %s -->", strings.Repeat("x", s.Padding))
	}
	device("InternetGatewayDevice", func() {
		list(func() {
			device("WANDevice", func() { list(func() { device("WANConnectionDevice", func() { services(&b, s) }) }) })
		})
	})
	b.WriteString("</root>\r\n")
	return b.String()
}

func services(b *strings.Builder, s IGDSettings) {
	all := s.Services
	if len(all) == 0 {
		all = []string{WANIP1}
	}
	control := s.Control
	if control == "" {
		control = ControlPath
	}
	b.WriteString("<serviceList>")
	for i, urn := range all {
		fmt.Fprintf(b, "<service><serviceType>%s</serviceType><serviceId>urn:upnp-org:serviceId:%d</serviceId>"+
			"<SCPDURL>/scpd.xml</SCPDURL><controlURL>%s</controlURL><eventSubURL>/evt</eventSubURL></service>",
			urn, i, control)
	}
	b.WriteString("</serviceList>")
}

// arguments are those of all actions.
type arguments struct {
	ExternalPort   uint16 `xml:"NewExternalPort"`
	Protocol       string `xml:"NewProtocol"`
	InternalPort   uint16 `xml:"NewInternalPort"`
	InternalClient string `xml:"NewInternalClient"`
	Lease          uint32 `xml:"NewLeaseDuration"`
}

func (g *IGD) act(w http.ResponseWriter, r *http.Request, action string, from netip.Addr) {
	var envelope struct {
		Body struct {
			Action arguments `xml:",any"`
		} `xml:"http://schemas.xmlsoap.org/soap/envelope/ Body"`
	}
	if err := xml.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&envelope); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	urn, _, _ := strings.Cut(strings.Trim(r.Header.Get("SOAPACTION"), `"`), "#")
	out, code := g.do(action, envelope.Body.Action, from)
	w.Header().Set("Content-Type", `text/xml; charset="utf-8"`)
	const head = `<?xml version="1.0"?>` + "\r\n" + `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"` +
		` s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>`
	const tail = "</s:Body></s:Envelope>\r\n"
	if code != 0 {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, head+`<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>`+
			`<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode>`+
			`<errorDescription>in words</errorDescription></UPnPError></detail></s:Fault>`+tail, code)
		return
	}
	fmt.Fprintf(w, head+`<u:%sResponse xmlns:u="%s">%s</u:%[1]sResponse>`+tail, action, urn, out)
}

// do carries an action out and returns the answer's arguments or an error code.
func (g *IGD) do(action string, a arguments, from netip.Addr) (string, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch action {
	case "GetExternalIPAddress":
		return "<NewExternalIPAddress>" + g.settings.External + "</NewExternalIPAddress>", 0
	case "AddPortMapping":
		return "", g.addLocked(a, from)
	case "DeletePortMapping":
		if _, ok := g.Table.Get(a.ExternalPort); !ok {
			return "", noSuchEntry
		}
		g.Table.Delete(a.ExternalPort)
		return "", 0
	case "GetSpecificPortMappingEntry":
		return g.lookupLocked(a)
	}
	return "", invalidAction
}

func (g *IGD) addLocked(a arguments, from netip.Addr) int {
	to, err := netip.ParseAddr(a.InternalClient)
	e, taken := g.Table.Get(a.ExternalPort)
	ours := taken && e.To.Addr() == from
	switch {
	case err != nil || to != from || a.Protocol != "UDP":
		return 402
	case g.settings.PermanentOnly && a.Lease != 0:
		return permanentOnly
	case g.settings.TakenPorts > 0:
		g.settings.TakenPorts--
		return conflict
	case taken && !ours, ours && g.settings.RenewalConflict:
		return conflict
	}
	entry := Entry{To: netip.AddrPortFrom(to, a.InternalPort)}
	if a.Lease != 0 {
		lifetime := time.Duration(a.Lease) * time.Second
		if g.settings.MaxLease > 0 {
			lifetime = min(lifetime, g.settings.MaxLease)
		}
		entry.Expires = time.Now().Add(lifetime)
	}
	g.Table.Put(a.ExternalPort, entry)
	return 0
}

func (g *IGD) lookupLocked(a arguments) (string, int) {
	if g.settings.NoLookup {
		return "", invalidAction
	}
	e, ok := g.Table.Get(a.ExternalPort)
	if !ok {
		return "", noSuchEntry
	}
	client := e.To.Addr().String()
	if g.settings.LookupAnswers != "" {
		client = g.settings.LookupAnswers
	}
	left := 0
	if !e.Expires.IsZero() {
		left = int(math.Ceil(time.Until(e.Expires).Seconds()))
	}
	return fmt.Sprintf("<NewInternalPort>%d</NewInternalPort><NewInternalClient>%s</NewInternalClient>"+
		"<NewEnabled>1</NewEnabled><NewPortMappingDescription>x</NewPortMappingDescription>"+
		"<NewLeaseDuration>%d</NewLeaseDuration>", e.To.Port(), client, left), 0
}
