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
package udp
