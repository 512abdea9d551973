// Package signal carries messages between two meshd peers that have no connection
// with each other, over a gossip channel of the mesh: every router on the way passes
// them on, stock ones too (weave protocol, section 3.2).
//
//	Request ──► seal ──► Config.Unicast ──► … routers … ──► Told ──► open ──► Config.Answer
//	   ▲                                                                          │
//	   └──────────────────────────── reply, the same way ─────────────────────────┘
//
// Peers find each other by announcements: signed by the host's identity, proved by
// the mesh's password where there is one, broadcast and sent to each peer that is
// new. An announcement has a key for this run of the daemon; what two peers tell each
// other is sealed with what both their keys and the password make, so nobody in
// between reads or changes it. See docs/protocol.md.
//
// Gossip is lossy: requests are sent again until they are answered or expire, and
// answered once however often they come.
package signal
