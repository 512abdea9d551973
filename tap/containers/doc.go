// Package containers keeps what an operator asked for: containers on the overlay,
// addresses of this host on it, and ports of this host that lead to services there.
//
//	attach ──┐                       ┌─► tap/claim    is the address free?
//	expose ──┼─► Keeper ─────────────┼─► tap/attach   ethwe in a namespace
//	publish ─┘     │  ▲              ├─► tap/expose   address on the bridge, rules
//	               ▼  │              └─► tap/publish  a proxy
//	            records │
//	       one file each│
//	                    └── events of the engines, of the bridge, a look now and then
//
// What was asked for is on disk before it is done, and is done again whenever it turns
// out not to be: when a container, its engine, the daemon or the host was restarted.
// It is forgotten when the operator takes it back, or the container is removed.
package containers
