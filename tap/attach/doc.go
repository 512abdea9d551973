// Package attach gives a container an interface on the overlay: one end of a veth
// pair in the container's network namespace, the other one on the bridge.
//
//	container's namespace              host: the calling thread's namespace
//	┌──────────────────────────┐
//	│ eth0   the engine's      │
//	│ ethwe  10.32.0.1/24 ─────┼─ veth ── vethwe3f2a90c1 ── bridge "weave" ── port
//	│        224.0.0.0/4       │          alias "meshd attach KEY"
//	└──────────────────────────┘
//
// Inside is what Weave Net gave, but for two things: the MTU is the bridge's, which
// every path of the overlay carries, and checksum and segmentation offloads stay on,
// which is how a stream crosses the port in super-frames.
//
// What Weave Net has attached to the same bridge becomes ours as it is, when it is asked
// for: the host side is renamed and tagged, the container notices nothing.
//
// An attachment has a key, that of the container; the alias of the host side carries
// it, so that a later daemon knows what is whose (Leftovers). The kernel removes the
// pair with the container's namespace. Nothing here looks whether an address is free
// on the overlay: see package claim.
//
// Calls for one key must not overlap; others may. What is said to be in the host
// happens in the network namespace of the calling thread.
package attach
