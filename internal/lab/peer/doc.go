// Package peer runs meshd on hosts of a lab: it starts the real program, ends it
// in every way there is, and reads the program's own API.
//
//	Peer ── Up, Kill, Freeze, Thaw, Down ──► meshd up, in the host's namespace
//	  └──── Report, Command ──► API socket ──┘
package peer
