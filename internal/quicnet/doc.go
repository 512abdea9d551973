// Package quicnet is meshd's QUIC endpoint: it runs quic-go over the sockets of a
// mux, opens and takes connections, and gives out their streams as carriers of
// sessions and their datagrams to the paths of transport/quic.
//
//	mux.Mux (6785, QUIC only) ──┐ packetConn ── quic-go ──┐
//	mux.Mux (443, …) ───────────┘                         ├── Conn ──┬── session Stream
//	                                                      │          ├── path Stream
//	                                                      │          └── datagrams
//
// Both ends show a certificate. The package checks what TLS itself proves: that
// the other end has the Ed25519 key in it, and that it is valid now. Who is
// trusted is decided on top of the streams, bound to the TLS exporter.
//
// A stream begins with four bytes of whoever opens it, answered with one byte:
//
//	0        2         3         4            0
//	+--------+---------+---------+            +---------+
//	| "mq"   | version | purpose | stream …   | version | stream …
//	+--------+---------+---------+            +---------+
//
// A connection lives as long as somebody holds it: a session stream, or a path.
package quicnet
