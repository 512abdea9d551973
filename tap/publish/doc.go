// Package publish makes a service in a container anywhere on the overlay
// reachable on a port of this host: a proxy inside the daemon.
//
//	other machines ──┐                   Proxy                    overlay
//	this host ───────┼─► 0.0.0.0:80 ─┐ ┌────────────┐
//	 127.0.0.1, ::1  │               ├─┤ one socket ├─ resolve ─► 192.168.99.10:80
//	                 └─► [::]:80 ────┘ │ per client │            in a container,
//	                                   └────────────┘            on any host
//
// It is a socket of the host like any other and makes no rule in the kernel:
// loopback, IPv6 and what Docker does for its own -p need no special case. The
// service sees this host's address on the overlay, not the client's.
//
// TCP: what one side sends goes to the other inside the kernel (splice) where there
// is much of it. The end of what it says is passed on as that alone (half-close),
// and a reset as a reset. A connection that rests is kept for as long as both ends
// answer keep-alives.
//
//	client ══ data ══► │ wait until readable: n bytes │ ══ splice n ══► target
//	       ── FIN ───► │ CloseWrite                   │ ── FIN ───────►
//
// UDP: a client is an address and port, and the address of ours that it sent to. It
// has one socket to the target, until both have been silent for a while; what comes
// back leaves from the address that the client sent to, which a host with several
// would not do by itself.
//
//	10.0.0.7:5000 ─► 10.0.0.1:53 ─► client{10.0.0.7:5000, 10.0.0.1} ── socket ─► target
//	10.0.0.7:5000 ◄─ 10.0.0.1:53 ◄── pktinfo: from 10.0.0.1 ───────────────────◄ target
//
// Where the target is, is asked for each connection and client, and again while it
// does not answer, so that a container may restart, with another address too.
//
// Files: spec.go the syntax, listen.go the sockets in front, target.go those behind;
// stream.go and splice.go TCP, datagram.go, client.go and clients.go UDP.
package publish
