package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ICMP echo, RFC 792 and RFC 4443, section 4:
//
//	0      1      2          4            6          8
//	type   code   checksum   identifier   sequence   payload…
const (
	echoHeaderLen = 8
	echoID        = 4
	echoSeq       = 6
	echoRequest4  = 8
	echoReply4    = 0
	echoRequest6  = 128
	echoReply6    = 129
)

// pingIDs gives each ping of this process another identifier.
var pingIDs atomic.Uint32

// Ping is a series of echo requests that goes on until Stop.
type Ping struct {
	dst      netip.Addr
	id       uint16
	payload  int
	conn     net.PacketConn
	cancel   context.CancelFunc
	sender   sync.WaitGroup
	receiver sync.WaitGroup
	answered chan struct{} // holds one for the replies that came

	mu      sync.Mutex // guards what follows
	echoes  []echo     // by number of sending
	waiting int
	drained chan struct{} // made by Stop, closed when nothing is waited for
	failed  uint64
}

type echo struct {
	sent    time.Time
	rtt     time.Duration
	replies int
}

// PingConfig says how to ping. The zero value is one request per second with 56
// bytes of payload.
type PingConfig struct {
	Interval time.Duration
	Payload  int // bytes after the echo header
}

// Ping begins to send echo requests from the namespace to dst, an IPv4 address
// or an IPv6 address (link-local ones with the interface's index as zone).
func (n *Namespace) Ping(dst netip.Addr, c PingConfig) (*Ping, error) {
	network, local := "ip4:icmp", "0.0.0.0"
	if dst.Is6() {
		network, local = "ip6:ipv6-icmp", "::"
	}
	conn, err := n.ListenPacket(network, local)
	if err != nil {
		return nil, fmt.Errorf("ping from %s: %w", n.Name, err)
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.Payload == 0 {
		c.Payload = 56
	}
	// One that was not read in time would count as lost.
	conn.(*net.IPConn).SetReadBuffer(4 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Ping{
		dst: dst, id: uint16(pingIDs.Add(1)), payload: c.Payload, conn: conn, cancel: cancel,
		answered: make(chan struct{}, 1),
	}
	p.sender.Go(func() { p.send(ctx, c.Interval) })
	p.receiver.Go(p.receive)
	return p, nil
}

func (p *Ping) send(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		p.sendOne()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sendOne sends one request; a request that the kernel refuses is lost.
func (p *Ping) sendOne() {
	p.mu.Lock()
	seq := len(p.echoes)
	p.echoes = append(p.echoes, echo{sent: time.Now()})
	p.waiting++
	p.mu.Unlock()
	addr := &net.IPAddr{IP: p.dst.AsSlice(), Zone: p.dst.Zone()}
	if _, err := p.conn.WriteTo(p.request(uint16(seq)), addr); err != nil {
		p.mu.Lock()
		p.failed++
		p.mu.Unlock()
	}
}

func (p *Ping) request(seq uint16) []byte {
	b := make([]byte, echoHeaderLen+p.payload)
	b[0] = echoRequest4
	if p.dst.Is6() {
		b[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(b[echoID:], p.id)
	binary.BigEndian.PutUint16(b[echoSeq:], seq)
	for i := range b[echoHeaderLen:] {
		b[echoHeaderLen+i] = byte(i)
	}
	if p.dst.Is4() { // for IPv6 the kernel fills it in
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// checksum is the Internet checksum, RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for len(b) >= 2 {
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (p *Ping) receive() {
	want := byte(echoReply4)
	if p.dst.Is6() {
		want = echoReply6
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := p.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < echoHeaderLen || buf[0] != want || binary.BigEndian.Uint16(buf[echoID:]) != p.id {
			continue // an ICMP error comes as a read error on some kernels
		}
		p.count(binary.BigEndian.Uint16(buf[echoSeq:]), n-echoHeaderLen, time.Now())
	}
}

// count books a reply. Sequence numbers wrap: the latest request with this one
// is meant.
func (p *Ping) count(seq uint16, payload int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.echoes) - 1
	i := last - int(uint16(last)-seq)
	if i < 0 || payload != p.payload {
		return
	}
	e := &p.echoes[i]
	e.replies++
	if e.replies > 1 {
		return
	}
	e.rtt = now.Sub(e.sent)
	p.waiting--
	select {
	case p.answered <- struct{}{}:
	default:
	}
	if p.waiting == 0 && p.drained != nil {
		close(p.drained)
		p.drained = nil
	}
}

// Stop ends the sending, waits until all replies are there, at most grace long,
// and counts.
func (p *Ping) Stop(grace time.Duration) PingStats {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	return p.stop(ctx)
}

func (p *Ping) stop(ctx context.Context) PingStats {
	p.cancel()
	p.sender.Wait()
	select {
	case <-p.replied():
	case <-ctx.Done():
	}
	p.conn.Close()
	p.receiver.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked(len(p.echoes))
}

// replied is closed when no request waits for its reply; sending has ended.
func (p *Ping) replied() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	drained := make(chan struct{})
	if p.waiting == 0 {
		close(drained)
	} else {
		p.drained = drained
	}
	return drained
}

// Stats counts so far, those requests excepted that are younger than age.
func (p *Ping) Stats(age time.Duration) PingStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.echoes)
	for n > 0 && time.Since(p.echoes[n-1].sent) < age {
		n--
	}
	return p.statsLocked(n)
}

// PingStats counts a series of echo requests.
type PingStats struct {
	Sent, Received, Duplicates int
	Min, Avg, Max              time.Duration // round trips; 0 where nothing came back
	// Outage is the longest time between the sending of two requests that were
	// answered, if others between them were not; to the last request if nothing
	// was answered any more.
	Outage  time.Duration
	Refused uint64 // requests that our own kernel refused to send
}

// Lost is how many requests have no reply.
func (s PingStats) Lost() int { return s.Sent - s.Received }

// String is a line as ping prints it.
func (s PingStats) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	out := fmt.Sprintf("%d sent, %d lost", s.Sent, s.Lost())
	if s.Duplicates > 0 {
		out += fmt.Sprintf(", %d duplicates", s.Duplicates)
	}
	if s.Outage > 0 {
		out += fmt.Sprintf(", longest outage %v", s.Outage.Round(time.Millisecond))
	}
	if s.Received > 0 {
		out += fmt.Sprintf(", rtt min/avg/max %v/%v/%v", r(s.Min), r(s.Avg), r(s.Max))
	}
	return out
}

func (p *Ping) statsLocked(n int) PingStats {
	s := PingStats{Sent: n, Refused: p.failed}
	if n == 0 {
		return s
	}
	var sum time.Duration
	good, gap := p.echoes[0].sent, false // the last answered request
	for _, e := range p.echoes[:n] {
		if e.replies == 0 {
			gap = true
			continue
		}
		if gap {
			s.Outage, gap = max(s.Outage, e.sent.Sub(good)), false
		}
		good = e.sent
		s.Received++
		s.Duplicates += e.replies - 1
		sum += e.rtt
		s.Max = max(s.Max, e.rtt)
		if s.Min == 0 || e.rtt < s.Min {
			s.Min = e.rtt
		}
	}
	if gap {
		s.Outage = max(s.Outage, p.echoes[n-1].sent.Sub(good))
	}
	if s.Received > 0 {
		s.Avg = sum / time.Duration(s.Received)
	}
	return s
}

// PingOnce waits for one echo reply until ctx is done, and asks once a second
// for it, as ping does: a network just built may lose a packet while its
// interfaces come up.
func (n *Namespace) PingOnce(ctx context.Context, dst netip.Addr) (time.Duration, error) {
	return n.PingSize(ctx, dst, 56)
}

// PingSize is PingOnce with this many bytes of payload.
func (n *Namespace) PingSize(ctx context.Context, dst netip.Addr, payload int) (time.Duration, error) {
	p, err := n.Ping(dst, PingConfig{Interval: time.Second, Payload: payload})
	if err != nil {
		return 0, err
	}
	select {
	case <-p.answered:
	case <-ctx.Done():
	}
	s := p.Stop(0)
	if s.Received == 0 {
		return 0, fmt.Errorf("no echo reply from %s in %s: %d sent, %d refused by the kernel", dst, n.Name, s.Sent, s.Refused)
	}
	return s.Min, nil
}
