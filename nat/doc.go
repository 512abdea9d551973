// Package nat finds direct ways through NATs. It owns no socket: it is handed STUN
// messages that came to the data sockets, and a way to send from them.
//
//	mux.STUN ──► Agent.Take ──┬── binding request ───────────► answered: the responder
//	                          ├── answer to one of ours ─────► Survey: our addresses
//	                          └── check, keyed by signalling ► round: a pair that works
//
//	control.Mesh ─ Look ──► Agent.Run ─┬─ Request, Notify ──► signalling
//	                                   └─ Found, Meet ──────► paths and session
//
// For each peer of the mesh without a direct way both ends learn each other's
// candidates over signalling, and then send checks at the same time, so that each
// opens its own NAT for the other: RFC 8445 in spirit, without its roles by offer. The
// peer with the lower name leads. Until there is a pair, and after it died, frames go
// over other peers; nothing here concerns them.
package nat
