package control

import (
	"maps"
	"slices"
	"sync"

	"meshd/internal/frame"
)

// Bounds of what waits for one neighbour.
const (
	maxQueuedControl = 1024    // overlay control messages
	maxQueuedGossip  = 4 << 20 // bytes of gossip of all channels but topology
)

// outQueue is what waits to be sent to one neighbour. Topology gossip is kept as
// names and encoded when it is sent, so that however much the topology changes
// one newer state waits and no more. All methods may be called concurrently.
type outQueue struct {
	ready chan struct{} // capacity 1: something waits

	mu      sync.Mutex // guards below
	control []Message
	gossip  []Message
	bytes   int // in gossip
	names   map[frame.PeerName]struct{}
	dropped uint64 // gossip that found the queue full
}

func newOutQueue() *outQueue {
	return &outQueue{ready: make(chan struct{}, 1), names: map[frame.PeerName]struct{}{}}
}

// pushControl queues an overlay control message; false: too many wait.
func (q *outQueue) pushControl(msg Message) bool {
	q.mu.Lock()
	full := len(q.control) >= maxQueuedControl
	if !full {
		q.control = append(q.control, msg)
	}
	q.mu.Unlock()
	q.signal()
	return !full
}

// pushGossip queues a message of a channel that is not topology. What finds the
// queue full is dropped and counted.
func (q *outQueue) pushGossip(msg Message) {
	q.mu.Lock()
	if q.bytes+len(msg.Body) > maxQueuedGossip {
		q.dropped++
	} else {
		q.gossip = append(q.gossip, msg)
		q.bytes += len(msg.Body)
	}
	q.mu.Unlock()
	q.signal()
}

// pushNames queues topology entries by name.
func (q *outQueue) pushNames(names []frame.PeerName) {
	if len(names) == 0 {
		return
	}
	q.mu.Lock()
	for _, n := range names {
		q.names[n] = struct{}{}
	}
	q.mu.Unlock()
	q.signal()
}

func (q *outQueue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// takeMessages empties the queue of messages, overlay control first.
func (q *outQueue) takeMessages() []Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := append(q.control, q.gossip...)
	q.control, q.gossip, q.bytes = nil, nil, 0
	return out
}

// lost is how many messages found the queue full.
func (q *outQueue) lost() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// takeNames empties the set of topology entries.
func (q *outQueue) takeNames() []frame.PeerName {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.names) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(q.names))
	clear(q.names)
	return names
}
