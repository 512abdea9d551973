package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxBody bounds what Get reads.
const maxBody = 1 << 20

// ServeHTTP serves on an address of the namespace, such as "192.168.99.10:80",
// until the namespace is removed.
func (n *Namespace) ServeHTTP(addr string, h http.Handler) error {
	l, err := n.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("serve HTTP on %s in %s: %w", addr, n.Name, err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	n.adopt(s)
	go s.Serve(l) // ends when the namespace closes s
	return nil
}

// Get fetches a URL, which has an IP address as its host, from inside the
// namespace over a connection of its own. Any status but 200 is an error.
func (n *Namespace) Get(ctx context.Context, url string) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return n.Dial(ctx, network, addr)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %s", url, res.Status)
	}
	return string(body), nil
}
