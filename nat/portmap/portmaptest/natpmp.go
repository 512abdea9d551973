package portmaptest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Requests and answers of NAT-PMP, RFC 6886, sections 3.2 and 3.3:
//
//	request                         answer
//	0  version 0                    0  version 0
//	1  0 address, 1 map UDP         1  the same | 0x80
//	2  reserved                     2  result, 16 bit
//	4  internal port                4  seconds since the table was empty, 32 bit
//	6  external port                8  external address, or internal port
//	8  lifetime, s, 32 bit          10 external port
//	                                12 lifetime, s, 32 bit
const (
	opAddress = 0
	opMapUDP  = 1
	answerBit = 0x80

	unsupportedVersion = 1
	unsupportedOp      = 5
)

// NATPMP is a gateway that speaks NAT-PMP. Its methods may be called
// concurrently.
type NATPMP struct {
	Table *Table

	mu       sync.Mutex // guards what follows
	settings NATPMPSettings
	boot     time.Time
	maps     int
}

// NATPMPSettings say how the gateway answers.
type NATPMPSettings struct {
	External netip.Addr
	Grant    time.Duration // longest lifetime; 0: any
	Result   uint16        // of every answer
	Silent   bool          // answers nothing
	Mute     bool          // maps, and does not say so
}

// NewNATPMP makes a gateway that has just started.
func NewNATPMP(t *Table, s NATPMPSettings) *NATPMP {
	return &NATPMP{Table: t, settings: s, boot: time.Now()}
}

// Set changes how it answers.
func (g *NATPMP) Set(change func(*NATPMPSettings)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.settings)
}

// Age makes it older, so that a Reboot shows.
func (g *NATPMP) Age(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.boot = g.boot.Add(-d)
}

// Reboot starts it anew: the table is empty.
func (g *NATPMP) Reboot() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.boot = time.Now()
	g.Table.Clear()
}

// Maps is how many mappings were asked for.
func (g *NATPMP) Maps() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.maps
}

// Serve answers on c until c is closed.
func (g *NATPMP) Serve(c net.PacketConn) error {
	buf := make([]byte, 64)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if answer := g.answer(buf[:n], from.(*net.UDPAddr).AddrPort().Addr().Unmap()); answer != nil {
			c.WriteTo(answer, from) // one that does not arrive is asked for again
		}
	}
}

func (g *NATPMP) answer(q []byte, from netip.Addr) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settings.Silent || len(q) < 2 || q[1]&answerBit != 0 {
		return nil
	}
	switch {
	case q[0] != 0:
		return g.headLocked(q[1], unsupportedVersion)
	case q[1] == opAddress:
		a := g.headLocked(q[1], g.settings.Result)
		addr := g.settings.External.As4()
		return append(a, addr[:]...)
	case q[1] == opMapUDP && len(q) == 12:
		return g.mapLocked(q, from)
	}
	return g.headLocked(q[1], unsupportedOp)
}

func (g *NATPMP) mapLocked(q []byte, from netip.Addr) []byte {
	internal := binary.BigEndian.Uint16(q[4:])
	external := binary.BigEndian.Uint16(q[6:])
	lifetime := time.Duration(binary.BigEndian.Uint32(q[8:])) * time.Second
	to := netip.AddrPortFrom(from, internal)
	if g.settings.Result == 0 {
		if lifetime == 0 {
			g.Table.DeleteTo(to)
			external = 0
		} else {
			g.maps++
			if g.settings.Grant > 0 {
				lifetime = min(lifetime, g.settings.Grant)
			}
			for {
				e, taken := g.Table.Get(external)
				if !taken && external != 0 || e.To == to {
					break
				}
				external++
			}
			g.Table.Put(external, Entry{to, time.Now().Add(lifetime)})
			if g.settings.Mute {
				return nil
			}
		}
	}
	a := g.headLocked(q[1], g.settings.Result)
	a = binary.BigEndian.AppendUint16(a, internal)
	a = binary.BigEndian.AppendUint16(a, external)
	return binary.BigEndian.AppendUint32(a, uint32(lifetime/time.Second))
}

func (g *NATPMP) headLocked(op byte, result uint16) []byte {
	a := []byte{0, op | answerBit}
	a = binary.BigEndian.AppendUint16(a, result)
	return binary.BigEndian.AppendUint32(a, uint32(time.Since(g.boot)/time.Second))
}
