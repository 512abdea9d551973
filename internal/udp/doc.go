// Package udp is a UDP socket for one address family that moves datagrams in
// batches, and sends them either with the don't-fragment flag or without.
//
//	             ┌─ socket 1: DF ─────┐
//	WriteBatch ──┤                    ├── one port ── network
//	             └─ socket 2: not DF ─┘                  │
//	ReadBatch ◄───────── socket 1 ◄──────────────────────┘
//
// The flag is a property of a socket, so on Linux there are two, bound to the
// same port: senders of the two classes share no lock and switch no mode.
// Elsewhere one socket serves, and the system decides about the flag.
//
// Where the kernel has it (Offload), datagrams of one length to one place leave
// in one piece that the kernel or the device cuts (UDP_SEGMENT), and those that
// come from one place are read in one piece (UDP_GRO):
//
//	messages to A  │ 1400 │ 1400 │ 1400 │ 600 │  ──►  one run  ──►  4 datagrams
//	Message of A   │ Segment 1400, N 4800     │  ◄──  one run  ◄──  4 datagrams
package udp
