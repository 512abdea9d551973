package publish

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Stats are counts since Open.
type Stats struct {
	Connections   uint64    // TCP connections taken, or UDP clients
	Active        int       // of them now
	Refused       uint64    // TCP connections beyond Options.Limit, or UDP clients that had to make room
	BytesToTarget uint64    // payload, in bytes
	BytesToClient uint64    // payload, in bytes
	Dropped       uint64    // UDP datagrams that could not be passed on, in both directions
	DialErrors    uint64    // connections and clients without a target, and errors that UDP targets reported
	LastError     string    // the last of DialErrors, "" if there was none
	LastErrorAt   time.Time // when that was
}

// counts are what Stats are made of.
type counts struct {
	log *slog.Logger

	connections, refused, dialErrors, dropped atomic.Uint64
	toTarget, toClient                        atomic.Uint64
	active                                    atomic.Int64
	lost                                      atomic.Bool // the last news of the target was an error

	mu          sync.Mutex // guards what follows
	lastError   error
	lastErrorAt time.Time
	limitSaid   time.Time // when the log was told that the limit is reached
}

// failed notes that the target could not be reached, or cannot any more.
func (c *counts) failed(err error) {
	c.dialErrors.Add(1)
	c.mu.Lock()
	c.lastError, c.lastErrorAt = err, time.Now()
	c.mu.Unlock()
	if !c.lost.Swap(true) {
		c.log.Warn("published service is not reached", "err", err)
	}
}

// reached notes that the target is there.
func (c *counts) reached() {
	if c.lost.Load() && c.lost.Swap(false) {
		c.log.Info("published service is reached again")
	}
}

// full notes that the limit was reached. The log is told once a minute.
func (c *counts) full(limit int) {
	c.refused.Add(1)
	c.mu.Lock()
	say := time.Since(c.limitSaid) > time.Minute
	if say {
		c.limitSaid = time.Now()
	}
	c.mu.Unlock()
	if say {
		c.log.Warn("published port has as many clients as it may", "limit", limit)
	}
}

func (c *counts) stats() Stats {
	s := Stats{
		Connections:   c.connections.Load(),
		Active:        int(c.active.Load()),
		Refused:       c.refused.Load(),
		BytesToTarget: c.toTarget.Load(),
		BytesToClient: c.toClient.Load(),
		Dropped:       c.dropped.Load(),
		DialErrors:    c.dialErrors.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastError != nil {
		s.LastError, s.LastErrorAt = c.lastError.Error(), c.lastErrorAt
	}
	return s
}
