package udp

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// mangled is why GRO is off after Judge turned it off.
const mangled = "datagrams of runs did not authenticate while others did: the kernel's UDP_GRO may mangle them"

// OnOffload sets who is told when Judge turned GRO off or on. Call it before
// ReadBatch; it is called on the goroutine that calls Judge.
func (c *Conn) OnOffload(tell func(Offload)) { c.onOffload = tell }

// OnTooBig sets who is told of ICMP errors that say that datagrams to dst are too
// big: mtu is the IP MTU in bytes that they name. Nothing authenticates them:
// they are a reason to probe, not the truth. Call it before ReadBatch, on whose
// goroutine it is called.
func (c *Conn) OnTooBig(tell func(dst netip.AddrPort, mtu int)) { c.onTooBig = tell }

// Judge takes what became of the datagrams of a batch. It turns GRO off where
// runs fail to authenticate and other datagrams do not, and on again if that was
// not the reason. Only the goroutine that calls ReadBatch may call it.
func (c *Conn) Judge(now time.Time, v Verdict) {
	o := c.Offload()
	if v == (Verdict{}) || !o.GRO && c.judge.state != trial {
		return
	}
	on := c.judge.hear(now, v)
	if on == o.GRO {
		return
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed.Load() || unix.SetsockoptInt(c.df, unix.SOL_UDP, unix.UDP_GRO, boolInt(on)) != nil {
		return
	}
	if o.GRO = on; on {
		o.Why = c.opened.Why
	} else {
		o = o.without(false, true, mangled)
	}
	c.offload.Store(&o)
	if c.onOffload != nil {
		c.onOffload(o)
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
