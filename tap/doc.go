// Package tap is the port through which frames leave and enter the host: a TAP
// device on a Linux bridge, kept there.
//
//	containers ── veth ──┐
//	                     ├── bridge "weave" ── TAP "meshd0" ══ fd ══ Port ── forwarder
//	host (expose) ───────┘        ▲                ▲                  │
//	                              └─── re-joined by the watcher ◄── netlink link events
//
// Run reads frames in batches and hands them up; Write puts frames on the bridge.
// Where the kernel has offloads (the default backend) a TCP or UDP stream crosses
// the fd in super-frames of up to 64 KiB with virtio-net headers, and Write joins
// the segments of a stream before it writes them. The portable backend knows only
// plain frames and cuts what comes as super-frames.
//
// What meshd makes carries a tag as its alias, so that a later run knows it: it
// takes over what a killed daemon left, and leaves alone what others made.
//
// Everything happens in the network namespace of the thread that called Open.
package tap
