package portmap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/huin/goupnp/ssdp"
)

const (
	// searchTime is how long we wait for answers of others than the gateway. The
	// search tells devices to answer within whole seconds, so at least one.
	searchTime = 1100 * time.Millisecond
	// searchAgain is when an unanswered search is sent once more.
	searchAgain = 300 * time.Millisecond
	// searchMore is how long we wait for more answers once the gateway's is there:
	// it may have several devices, of which one is connected.
	searchMore = 50 * time.Millisecond

	maxAnswer    = 2048 // bytes of one
	maxAnswers   = 64   // read per search
	maxLocations = 4    // that are fetched
)

// searched are the devices that we look for. A gateway of version 2 should
// answer to version 1 as well; not all do.
var searched = []string{
	"urn:schemas-upnp-org:device:InternetGatewayDevice:1",
	"urn:schemas-upnp-org:device:InternetGatewayDevice:2",
}

var ssdpGroup = netip.MustParseAddr("239.255.255.250")

const ssdpPort = 1900

// location is where a device says that its description is.
type location struct {
	url  *url.URL
	host netip.Addr // of url
}

func (l location) same(o location) bool { return l.url.String() == o.url.String() }

// search looks for Internet gateway devices on the gateway's link. The gateway's
// own location comes first, and soon ends the search when it is known.
func search(ctx context.Context, g Gateway) ([]location, error) {
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	searches := make([]searcher, len(searched))
	errs := make([]error, len(searched))
	var wg sync.WaitGroup
	for i, target := range searched {
		s := &searches[i]
		s.gateway = g
		wg.Go(func() {
			_, errs[i] = ssdp.RawSearch(ctx, s, target, 1)
			if s.complete() {
				cancel()
			}
		})
	}
	wg.Wait()
	var own, others []location
	for i := range searches {
		for _, l := range searches[i].found {
			switch {
			case slices.ContainsFunc(own, l.same) || slices.ContainsFunc(others, l.same):
			case l.host == g.Addr:
				own = append(own, l)
			default:
				others = append(others, l)
			}
		}
		errs = append(errs, searches[i].refused)
	}
	found := append(own, others...)
	if len(found) > 0 {
		return found[:min(len(found), maxLocations)], nil
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return nil, errSilent
}

// searcher sends a search and takes the answers, for ssdp.RawSearch. The one of
// goupnp does not tell who answered, takes answers without end and does not stop
// early.
type searcher struct {
	gateway Gateway
	found   []location
	refused error // why the last answer was not accepted that was not
}

var _ ssdp.HTTPUClientCtx = (*searcher)(nil)

// complete tells whether the gateway itself has answered.
func (s *searcher) complete() bool {
	return slices.ContainsFunc(s.found, func(l location) bool { return l.host == s.gateway.Addr })
}

// DoWithContext sends req and waits for answers until it is complete or req's
// context is done. What it accepts it keeps for itself.
func (s *searcher) DoWithContext(req *http.Request, _ int) ([]*http.Response, error) {
	ctx := req.Context()
	lc := net.ListenConfig{Control: onInterface(s.gateway)}
	conn, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(s.gateway.Local, 0).String())
	if err != nil {
		return nil, fmt.Errorf("open a socket to search with: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := conn.(*net.UDPConn)
	if err := s.send(c, req); err != nil {
		return nil, err
	}
	again := time.AfterFunc(searchAgain, func() { _ = s.send(c, req) })
	defer again.Stop()
	buf := make([]byte, maxAnswer)
	for range maxAnswers {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil || s.complete() && errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("wait for answers: %w", err)
		}
		before := s.complete()
		s.take(buf[:n], from.Addr().Unmap())
		if s.complete() && !before {
			again.Stop()
			_ = c.SetReadDeadline(time.Now().Add(searchMore)) // it fails once c is closed
		}
	}
	return nil, nil
}

// send sends the search to the group, and to the gateway alone: where multicast
// does not pass, as on some wireless links, that does.
func (s *searcher) send(c *net.UDPConn, req *http.Request) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", req.Method, req.URL.RequestURI())
	_ = req.Header.Write(&b) // a buffer has no errors
	b.WriteString("\r\n")
	_, errGroup := c.WriteToUDPAddrPort(b.Bytes(), netip.AddrPortFrom(ssdpGroup, ssdpPort))
	_, errGateway := c.WriteToUDPAddrPort(b.Bytes(), netip.AddrPortFrom(s.gateway.Addr, ssdpPort))
	if errGroup != nil && errGateway != nil {
		return fmt.Errorf("send a search: %w", errGroup)
	}
	return nil
}

// take accepts an answer or notes why not.
func (s *searcher) take(answer []byte, from netip.Addr) {
	l, err := s.gateway.accept(answer, from)
	if err != nil {
		s.refused = fmt.Errorf("the answer of %s is not followed: %w", from, err)
		return
	}
	if !slices.ContainsFunc(s.found, l.same) {
		s.found = append(s.found, l)
	}
}

// accept reads an answer to a search. A device may point to itself, and to the
// gateway, and to nobody else: what we fetch is not for a stranger to choose.
func (g Gateway) accept(answer []byte, from netip.Addr) (location, error) {
	if from != g.Addr && (!g.Link.Contains(from) || from == g.Local) {
		return location{}, errors.New("it is not on the gateway's link")
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil {
		return location{}, errors.New("it is no HTTP answer")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return location{}, fmt.Errorf("its status is %d", resp.StatusCode)
	}
	u, err := resp.Location()
	if err != nil {
		return location{}, errors.New("it has no location")
	}
	host, err := hostOf(u)
	if err != nil {
		return location{}, fmt.Errorf("its location is refused: %w", err)
	}
	if host != from && host != g.Addr {
		return location{}, fmt.Errorf("it points to %s", host)
	}
	return location{u, host}, nil
}
