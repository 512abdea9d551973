// Package pathstate has the state machines that every datagram path runs: does
// it work, how long do its datagrams take, how large may they be.
//
//	            ┌─ Life    heard, reached ──► Up, Why
//	path's Run ─┼─ Prober  probes, replies ─► RTT, Loss
//	            └─ PMTU    route, answers ──► MTU, sizes to test
//
// They do no I/O and have no clock: the path tells them what happened and when,
// asks what to do, and wakes up when the earliest of their Due times has come.
// None of them may be called concurrently; the path's mutex guards them all.
package pathstate
