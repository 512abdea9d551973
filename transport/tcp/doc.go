// Package tcp carries frames over TCP connections of their own between meshd peers,
// where UDP does not pass. It is the last resort: a connection that loses a packet
// holds up all that comes after it.
//
//	Link ─► path.Send ─► sender: items in records ─► queue ─► feed: seal ─► connection
//	                                                                          │ ▲
//	Handler ◄─ reading: packets of the items ◄─ open ◄─ records ◄─ receive ◄──┘ │
//	                                                                            │
//	session's dialler: connects to the neighbour's control port ────── bind ────┘
//
// A record is a native datagram (internal/encap) with its length before it; it has
// the same items, and super-frames whole. A connection belongs to a path once both
// ends have proved on it that they know the session's secret: see bind.go. One that
// ends, or over which the path is dead, is replaced by a new one.
//
// A write to the connection waits for the neighbour. So there is a queue before it,
// which is bounded, and drops what waits for too long.
package tcp
