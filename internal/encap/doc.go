// Package encap has the layouts of the datagrams that carry packets between
// neighbours, and seals and opens them. It does no I/O.
//
//	packets ──► AppendSleevePacket ──► SleeveSeal ──► datagram
//	packets ◄── SleeveReader ◄──────── SleeveOpen ◄── datagram
//	                                       │
//	                                    Window (replay)
package encap
