// Package quic carries frames in the datagrams of QUIC connections (RFC 9221).
//
//	Link ─► path.Send ─► sender: items in datagrams ─► queue ─► feed ─► quicnet.Conn
//	                                                                        │ ▲
//	Handler ◄─ receiver: packets of the items ◄──────────── receive ◄───────┘ │
//	                                                                          │
//	session's dialler: the session's connection, or one of its own ──── bind ─┘
//
// The datagrams have the items of meshd's native datagrams (internal/encap), which
// QUIC seals. A connection belongs to a path once both ends have proved on it, in
// a stream, that they know the session's secret: see bind.go. A connection that
// ends, or over which the path is dead, is replaced by a new one.
//
// quic-go's SendDatagram waits while the neighbour's acknowledgements are missing.
// So there is a queue before it, which drops what waits for too long.
package quic
