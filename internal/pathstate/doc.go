// Package pathstate has what every path watches of itself: does it work, how long do its
// datagrams take, how large may they be, and may it rest.
//
//	              ┌─ Life    heard, reached ──► Up, Why, rest
//	Watch ────────┼─ Prober  probes, replies ─► RTT, Loss
//	what all      ├─ PMTU    route, answers ──► MTU, sizes to test
//	paths share   └─ Traffic frames ──────────► whether the path is used
//
// The parts are machines that do no I/O and have no clock: they are told what happened
// and when, are asked what to do, and are asked again when the earliest of their Due times
// has come. None of them, but Traffic, may be called concurrently; the path's mutex guards
// them all. Watch has the clock: its Run calls the path, which does the I/O.
package pathstate
