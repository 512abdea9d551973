// Package transporttest has what transports are tested with: a network of
// datagrams and streams in memory, and the suite that every transport passes.
//
//	a.Listen ─► Socket ──► Link{Latency, Loss, MTU, Cut …} ──► Socket ◄─ b.Listen
//	 Host a   (as udp.Conn)        ▲                             Host b
//	            └── NAT ───────────┘  rewrites the source, rebinds
//
//	a.DialStream ─► Stream ──► Link: what is lost arrives later ──► Stream ◄─ b.ListenStream
//
// The network uses no goroutine and no real time but time.AfterFunc, so it works
// inside testing/synctest.
package transporttest
