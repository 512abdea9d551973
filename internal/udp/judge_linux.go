package udp

import "time"

// spoilt is why runs are not read after a judge's finding.
const spoilt = "datagrams failed authentication where they were read in runs"

// OnOffload sets what Judge calls, on its goroutine, when it has turned reading in
// runs off, or on again, with what is on now. Set it before reading.
func (c *Conn) OnOffload(tell func(Offload)) { c.onOffload = tell }

// Judge takes in what authentication made of the datagrams of one ReadBatch, and
// turns reading in runs off where it seems to spoil them: many of runs fail
// while others pass. It is turned on again if that did not help, and after an
// hour. It may be called concurrently.
func (c *Conn) Judge(now time.Time, v Verdict) {
	if !c.opened.GRO || v == (Verdict{}) {
		return
	}
	c.judging.Lock()
	was := c.judge.on()
	changed := c.judge.add(now, v) && c.judge.on() != was && c.obey()
	c.judging.Unlock()
	if changed && c.onOffload != nil {
		c.onOffload(c.Offload())
	}
}

// obey makes the socket as the judge has it.
func (c *Conn) obey() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	on := c.judge.on()
	if c.closed.Load() || setGRO(c.df, on) != nil {
		return false
	}
	o := c.opened
	if !on {
		o = o.without(false, true, spoilt)
	}
	c.offload.Store(&o)
	return true
}
