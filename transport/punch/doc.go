// Package punch carries packets in native datagrams (docs/protocol.md) between
// meshd peers that can reach each other over UDP. They are always encrypted.
//
//	Link ── Send, Flush ──► sender ── cut, bundle, seal ──► mux.Socket ──► network
//	                          ▲
//	Session ─ HandleControl ─►│ path      keys, address, MTU
//	 (hello)                  │
//	                 Run: probes, tests, keys
//
//	network ──► mux ──► reader ── open ──┬─ packets of the batch ──► Deliver
//	                                     └─ probes, tests ──► path
//
// Two peers begin by sending each other a hello over the control connection. From
// the session's secret and both hellos each derives the keys of both directions,
// so that whoever changes a hello on its way prevents the path instead of
// weakening it. The one that dialled sends its datagrams to the IP address it
// dialled and the port of the hello, the other to the IP address it was dialled
// from; both then follow the source of the newest authentic datagram. Where another pair of
// addresses is found to be better one end moves there (move.go), and the other follows.
//
// There is no goroutine and no queue between Send and the socket, nor between the
// socket and Deliver. Each path has one goroutine for its timers.
package punch
