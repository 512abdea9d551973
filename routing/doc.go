// Package routing decides where frames go. It is pure: no socket, no goroutine,
// no timer; tables take the time as an argument.
//
//	gossip ──► Topology ──► FIB (immutable snapshot)
//	           1 owner       │ SetFIB, atomic
//	                         ▼
//	port ──► FromPort ──► Forwarder ──► transport.Sender of a neighbour
//	port ◄── Write ◄─────── │  ▲ ◄───── FromLinks ◄── transports
//	                        ▼  │
//	                      MACTable
//
// The control plane owns the Topology; the data plane sees it only as a FIB.
package routing
