// Package sleeve carries packets over raw UDP as stock Weave Net routers do
// (weave protocol, section 6), and better between meshd peers where the protocol
// leaves room for it.
//
//	Link ── Send, Flush ──► path ──► outbox (DF)  ──┐
//	                         │  └──► outbox       ──┼──► PacketConn ──► network
//	Session ─ HandleControl ─┤                      │
//	                         └── Run: heartbeats, ──┘
//	                             probes, tests, MTU
//
//	network ──► PacketConn ──► reader ─┬─ packets of the batch ──► Deliver
//	                                   └─ special frames ──► path
//
// Super-frames and frames with unfinished checksums are cut and completed straight
// into the outbox, whose equal datagrams the socket sends as one run; runs that
// are read are split, and each datagram is taken for itself. So the neighbour, who
// may be a stock router, sees nothing but complete frames. A TCP SYN that asks for
// more than the path carries asks for less when it has crossed.
//
// There is no goroutine and no queue between Send and the socket, nor between
// the socket and Deliver. Each PacketConn has one reader goroutine; each path has
// one goroutine for its timers.
//
// A path is up while both directions work as far as it knows. Towards a stock
// neighbour that is decided by the protocol's heartbeats. Towards a meshd
// neighbour small probes are exchanged: they give round-trip time and loss,
// and tell within 2.5 s that the path is dead, in either direction.
package sleeve
