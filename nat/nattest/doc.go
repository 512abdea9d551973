// Package nattest has NATs to test against: hosts, NATs and an Internet in
// memory, in time as package time tells it and so of use inside synctest bubbles,
// and the means to see what a NAT does, in memory or in the kernel.
//
//	Host ── NAT ── Network ── NAT ── NAT ── Host
//	Host ──┘          │
//	               Host with a STUN server
package nattest
