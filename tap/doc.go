// Package tap is the port through which frames leave and enter the host: a TAP
// device on a Linux bridge, kept there.
//
//	containers ── veth ──┐
//	                     ├── bridge "weave" ── TAP "meshd0" ══ fd ══ Port ── forwarder
//	host (expose) ───────┘        ▲                ▲                  │
//	                              └─── re-joined by the watcher ◄── netlink link events
//
// Run reads frames in batches and hands them up; Write puts frames on the bridge.
// What meshd makes carries a tag as its alias, so that a later run knows it: it
// takes over what a killed daemon left, and leaves alone what others made.
//
// Everything happens in the network namespace of the thread that called Open.
package tap
