// Package measure finds out what the way of frames to another peer carries:
// throughput, loss, and round-trip times, idle and under load. It works over
// whatever carries frames to that peer now, relays too, and beside the traffic that
// is there.
//
//	     Meter that measures                             Meter that answers
//	offer ─────────────── control plane (Tell) ──────────────► session
//	      ◄────────────── accept or refuse ───────────────────
//	echo ──────────────── frames (Send ──► Take) ────────────► echo reply
//	data, data, data … ──────────────────────────────────────► tally of the round
//	request ─────────────────────────────────────────────────► report
//	close ─────────────── control plane ─────────────────────►
//
// A session is opened through the control plane, by gossip unicast: a peer that is
// not meshd never answers there, so that no frame of ours comes out on a bridge. The
// frames themselves are taken out by the forwarder of the peer that they are for.
//
// Data is sent in rounds of one rate each. First the rate rises until 1% of a round
// is lost, or it comes late; then the border is searched; then nine tenths of it are
// held for the rest of the time. Who answers keeps little, answers nothing but what
// its sessions ask, at a limited rate, and with nothing longer than the question.
//
// A ping is a session with few echoes in it and no data; it is prolonged for as long as
// it is wanted. Who sends an echo knows the neighbour that it leaves to, and who answers
// one says the same of the answer: so it is known of each answer whether the two peers
// were each other's next hops, or which relays came first.
package measure
