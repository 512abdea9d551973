package main

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// guard protects an HTTP API on TCP from web pages that the operator visits. A
// page whose name was made to resolve to our address (DNS rebinding) shows itself
// by the Host header, a page that sends requests across origins by Origin or
// Sec-Fetch-Site, which browsers set and pages cannot. Requests of other
// programs have neither.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !hostIsAddress(r.Host):
			http.Error(w, "the Host header must be an IP address or localhost", http.StatusForbidden)
		case crossSite(r):
			http.Error(w, "requests of other web sites are refused", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// hostIsAddress reports whether a Host header is an IP address or localhost,
// with or without port.
func hostIsAddress(host string) bool {
	if h, port, err := net.SplitHostPort(host); err == nil {
		if strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = h
	} else if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Zone() == ""
}

func crossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host != r.Host
}
