// Package mux shares one UDP port among those who use it: it reads the sockets
// and hands each datagram, by its first bytes, to who asked for its kind.
//
//	udp.Conn IPv4 ──► reader ──┬── Native ──► transport/punch
//	udp.Conn IPv6 ──► reader ──┤── STUN ────► nat
//	                           ├── QUIC ────► transport/quic
//	                           └── else: counted
//
// Each socket has one reader goroutine on an operating system thread of its own.
// Between the socket and a handler there is no queue. Who sends writes to the
// Socket itself.
package mux
