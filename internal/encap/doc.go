// Package encap has the layouts of the datagrams that carry packets between
// neighbours, and seals and opens them. It does no I/O.
//
//	packets ──► AppendSleevePacket ──► SleeveSeal ──► datagram
//	packets ◄── SleeveReader ◄──────── SleeveOpen ◄── datagram
//	                                       │
//	                                    Window (replay)
//
// weave's sleeve (weave protocol, section 6) towards all routers; native
// datagrams between meshd peers:
//
//	items ──► NativeSeal ──► datagram        sealed in place, keys change
//	items ◄── NativeOpen ◄── datagram        opened in place
package encap
