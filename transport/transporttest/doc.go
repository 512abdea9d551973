// Package transporttest has what transports are tested with: a network of
// datagrams in memory, and the suite that every transport passes.
//
//	a.Listen ─► Socket ──► Link{Latency, Loss, MTU, Cut …} ──► Socket ◄─ b.Listen
//	 Host a   (as udp.Conn)        ▲                             Host b
//	            └── NAT ───────────┘  rewrites the source, rebinds
//
// The network uses no goroutine and no real time but time.AfterFunc, so it works
// inside testing/synctest.
package transporttest
