package portmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

const (
	maxHeader = 16 << 10  // bytes of an answer's header
	maxBody   = 128 << 10 // bytes of an answer's body; descriptions have some 4 KiB
)

var errTooLarge = fmt.Errorf("the answer is larger than %d KiB", maxBody>>10)

// newHTTPClient makes a client that connects to one address only, over the
// gateway's interface, follows no redirect, uses no proxy and reads at most
// maxBody of an answer. Who calls it bounds the time.
func newHTTPClient(g Gateway, only netip.Addr) *http.Client {
	dialer := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(g.Local, 0)),
		Control:   onInterface(g),
		Timeout:   2 * time.Second,
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: bounded{&http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				// The URL was looked at before. This is for a mistake there.
				to, err := netip.ParseAddrPort(address)
				if err != nil || to.Addr() != only {
					return nil, fmt.Errorf("refuse to connect to %s: it is not %s", address, only)
				}
				return dialer.DialContext(ctx, "tcp4", address)
			},
			// A connection per request leaves nothing behind, and some gateways
			// answer only one.
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
		}},
	}
}

// bounded bounds the bodies of answers.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, maxBody}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int // bytes
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// hostOf is the host of a URL that may be asked: plain HTTP, and an address
// instead of a name, which somebody else would resolve for us.
func hostOf(u *url.URL) (netip.Addr, error) {
	if u.Scheme != "http" || u.User != nil {
		return netip.Addr{}, errors.New("not plain http")
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil || !addr.Is4() {
		return netip.Addr{}, errors.New("its host is no IPv4 address")
	}
	return addr, nil
}
