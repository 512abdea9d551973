package portmap

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
)

// describe fetches a device's description and makes clients of its services, in
// the order in which they are to be tried.
func (g Gateway) describe(ctx context.Context, l location) ([]connection, error) {
	client := newHTTPClient(g, l.host)
	root, err := fetchDescription(ctx, client, l)
	if err != nil {
		return nil, fmt.Errorf("fetch the description of %s: %w", l.host, err)
	}
	conns, err := connections(root, l, client)
	if err != nil {
		return nil, fmt.Errorf("description of %s: %w", l.host, err)
	}
	return conns, nil
}

func fetchDescription(ctx context.Context, client *http.Client, l location) (*goupnp.RootDevice, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return parseDescription(resp.Body, l)
}

// parseDescription reads a description, with its URLs resolved.
func parseDescription(r io.Reader, l location) (*goupnp.RootDevice, error) {
	d := xml.NewDecoder(r)
	d.DefaultSpace = goupnp.DeviceXMLNamespace
	// What matters to us is ASCII in whatever they declare.
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	root := new(goupnp.RootDevice)
	if err := d.Decode(root); err != nil {
		return nil, fmt.Errorf("read XML: %w", err)
	}
	base := l.url
	// A base that leads elsewhere is a mistake of the device's or a trap.
	if u, err := url.Parse(root.URLBaseStr); err == nil && root.URLBaseStr != "" {
		if host, err := hostOf(u); err == nil && host == l.host {
			base = u
		}
	}
	root.SetURLBase(base)
	return root, nil
}

// connections makes clients of the services that are on the described host.
func connections(root *goupnp.RootDevice, l location, client *http.Client) ([]connection, error) {
	var conns []connection
	elsewhere := false
	of := func(s goupnp.ServiceClient, c connection) {
		host, err := hostOf(&s.SOAPClient.EndpointURL)
		if err != nil || host != l.host {
			elsewhere = true
			return
		}
		s.SOAPClient.HTTPClient = *client
		conns = append(conns, c)
	}
	// The errors say that there is none of the kind.
	v2, _ := internetgateway2.NewWANIPConnection2ClientsFromRootDevice(root, l.url)
	for _, c := range v2 {
		of(c.ServiceClient, c)
	}
	v1, _ := internetgateway2.NewWANIPConnection1ClientsFromRootDevice(root, l.url)
	for _, c := range v1 {
		of(c.ServiceClient, c)
	}
	ppp, _ := internetgateway2.NewWANPPPConnection1ClientsFromRootDevice(root, l.url)
	for _, c := range ppp {
		of(c.ServiceClient, c)
	}
	switch {
	case len(conns) > 0:
		return conns, nil
	case elsewhere:
		return nil, errors.New("its control URL leads to another host: not followed")
	}
	return nil, errors.New("it connects to no internet")
}
