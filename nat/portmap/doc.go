// Package portmap asks the home gateway to forward a UDP port of ours, so that
// peers reach us from outside without punching.
//
//	 peers ── internet ── gateway ── link ── us: UDP port 6785
//	                      │  ▲
//	external 203.0.113.5:6785  └─ NAT-PMP (RFC 6886), 250 ms ahead of
//	                              UPnP: SSDP search, description, SOAP
//
// A Mapper keeps one mapping: it asks the gateways of the default routes, the
// best route first, renews at half the lifetime, looks every minute whether the
// gateway still knows the mapping, and takes it away when it ends.
//
// What comes from the link is not trusted. Nothing but the gateway and hosts on
// its link is ever contacted, over the default route's interface (NAT-PMP, whose
// client knows no interfaces, from our address on it); a description is fetched
// only from who answered the search or the gateway; answers are bounded in
// number, size and time.
package portmap
