package transporttest

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"meshd/internal/udp"
)

// Sizes in bytes.
const (
	defaultMTU   = 1500
	ipv4UDP      = 28 // headers of IPv4 and UDP
	ipv6UDP      = 48
	inboxLimit   = 4 << 20 // what a socket holds unread
	maxDatagrams = 4096
	maxRun       = 64 // datagrams
)

// Link is how datagrams get from one host to another, in one direction. The zero
// value is a perfect Ethernet.
type Link struct {
	Latency time.Duration
	// Latency6 is that of IPv6, where it is another one; 0: it is not.
	Latency6 time.Duration
	Jitter   time.Duration // up to this much more for each datagram: reorders them
	Loss     float64       // share of IP packets lost, 0 to 1; fragments count each
	// MTU is the largest IP packet in bytes that gets through whole; 0: 1500.
	// Larger datagrams with DF are lost, those without are cut into fragments.
	MTU int
	// KnownMTU is what the sender's kernel takes the MTU for; larger datagrams with
	// DF are refused there. 0: MTU. Larger than MTU: a black hole.
	KnownMTU      int
	DropFragments bool
	Cut           bool // nothing gets through
}

func (l Link) mtu() int {
	if l.MTU == 0 {
		return defaultMTU
	}
	return l.MTU
}

func (l Link) knownMTU() int {
	if l.KnownMTU == 0 {
		return l.mtu()
	}
	return l.KnownMTU
}

// Network connects hosts. Its methods may be called concurrently.
type Network struct {
	mu      sync.Mutex // guards all below, and the sockets' inboxes
	rng     *rand.Rand // of losses and delays
	runs    *rand.Rand // of runs
	hosts   map[netip.Addr]*Host
	nats    map[netip.Addr]*NAT
	links   map[[2]*Host]Link
	plain   Link
	flights flights
	order   uint64
	streams uint16 // that were opened
	seen    []func(Datagram)
}

// Datagram is one datagram as a receiver sees it.
type Datagram struct {
	From, To netip.AddrPort
	DF       bool
	Payload  []byte
}

// NewNetwork makes a network all of whose links are l until SetLink. The seed
// decides which packets are lost.
func NewNetwork(seed uint64, l Link) *Network {
	return &Network{
		rng: rand.New(rand.NewPCG(seed, 0)), runs: rand.New(rand.NewPCG(seed, 1)), plain: l,
		hosts: map[netip.Addr]*Host{}, nats: map[netip.Addr]*NAT{}, links: map[[2]*Host]Link{},
	}
}

// Host adds a host with addresses of either family.
func (n *Network) Host(addrs ...netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{net: n, addrs: addrs, sockets: map[netip.AddrPort]*Socket{}, listeners: map[netip.AddrPort]*StreamListener{}}
	for _, a := range addrs {
		n.hosts[a] = h
	}
	return h
}

// SetLink decides how datagrams get from one host to another.
func (n *Network) SetLink(from, to *Host, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[[2]*Host{from, to}] = l
}

// Connect sets the links of both directions.
func (n *Network) Connect(a, b *Host, l Link) {
	n.SetLink(a, b, l)
	n.SetLink(b, a, l)
}

// Watch calls seen for each datagram that a socket sends, with its source after
// NAT, before it is lost or not. seen must not call the network. The payload is
// borrowed.
func (n *Network) Watch(seen func(Datagram)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, seen)
}

// Inject delivers a datagram with a source that may be forged, at once.
func (n *Network) Inject(from, to netip.AddrPort, payload []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.receiver(to); s != nil {
		s.put(from, payload)
	}
}

func (n *Network) link(from, to *Host) Link {
	if l, ok := n.links[[2]*Host{from, to}]; ok {
		return l
	}
	return n.plain
}

// receiver finds the socket that listens at an address, through NATs.
func (n *Network) receiver(to netip.AddrPort) *Socket {
	if nat := n.nats[to.Addr()]; nat != nil {
		inside, ok := nat.inside(to.Port())
		if !ok {
			return nil
		}
		to = inside
	}
	h := n.hosts[to.Addr()]
	if h == nil {
		return nil
	}
	return h.sockets[to]
}

// hostAt finds the host that an address leads to, whether or not it listens.
func (n *Network) hostAt(a netip.AddrPort) *Host {
	if nat := n.nats[a.Addr()]; nat != nil {
		return nat.host
	}
	return n.hosts[a.Addr()]
}

// send takes one datagram of a socket. The error is the sender's kernel's.
func (n *Network) send(s *Socket, to netip.AddrPort, payload []byte, df bool) error {
	l := n.link(s.host, n.hostAt(to))
	size := len(payload) + headers(to)
	if size > 65535 || df && size > l.knownMTU() {
		return udp.ErrTooBig
	}
	from := s.addr
	if s.host.nat != nil {
		from = s.host.nat.outside(from)
	}
	for _, f := range n.seen {
		f(Datagram{From: from, To: to, DF: df, Payload: payload})
	}
	if !n.passes(l, size, df) {
		return nil
	}
	delay := l.Latency
	if to.Addr().Is6() && l.Latency6 > 0 {
		delay = l.Latency6
	}
	if l.Jitter > 0 {
		delay += time.Duration(n.rng.Int64N(int64(l.Jitter)))
	}
	if delay == 0 {
		if to := n.receiver(to); to != nil {
			to.put(from, payload)
		}
		return nil
	}
	n.order++
	heap.Push(&n.flights, flight{
		at: time.Now().Add(delay), order: n.order,
		from: from, to: to, payload: append([]byte(nil), payload...),
	})
	time.AfterFunc(delay, n.land)
	return nil
}

// passes decides whether a datagram of size bytes arrives.
func (n *Network) passes(l Link, size int, df bool) bool {
	fragments := (size + l.mtu() - 1) / l.mtu()
	switch {
	case l.Cut, df && size > l.mtu(), fragments > 1 && l.DropFragments:
		return false
	}
	for range fragments {
		if l.Loss > 0 && n.rng.Float64() < l.Loss {
			return false
		}
	}
	return true
}

// land delivers what has arrived, in order.
func (n *Network) land() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.flights) > 0 && !n.flights[0].at.After(now) {
		f := heap.Pop(&n.flights).(flight)
		if s := n.receiver(f.to); s != nil {
			s.put(f.from, f.payload)
		}
	}
}

func headers(to netip.AddrPort) int {
	if to.Addr().Is4() {
		return ipv4UDP
	}
	return ipv6UDP
}

// flight is a datagram under way.
type flight struct {
	at       time.Time
	order    uint64
	from, to netip.AddrPort
	payload  []byte
}

// flights is a heap by time of arrival.
type flights []flight

func (f flights) Len() int { return len(f) }
func (f flights) Less(i, j int) bool {
	if f[i].at.Equal(f[j].at) {
		return f[i].order < f[j].order
	}
	return f[i].at.Before(f[j].at)
}
func (f flights) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)   { *f = append(*f, x.(flight)) }
func (f *flights) Pop() any {
	last := len(*f) - 1
	x := (*f)[last]
	(*f)[last] = flight{}
	*f = (*f)[:last]
	return x
}

// Host has addresses and sockets.
type Host struct {
	net   *Network
	addrs []netip.Addr
	nat   *NAT

	// Guarded by net.mu.
	sockets   map[netip.AddrPort]*Socket
	listeners map[netip.AddrPort]*StreamListener
}

// Addrs are all its addresses, not to be changed.
func (h *Host) Addrs() []netip.Addr { return h.addrs }

// Addr is the host's first address.
func (h *Host) Addr() netip.Addr { return h.addrs[0] }

// Listen opens a socket at one of the host's addresses. The port must not be 0.
func (h *Host) Listen(at netip.AddrPort) (*Socket, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.hosts[at.Addr()] != h || at.Port() == 0 {
		return nil, fmt.Errorf("listen at %v: not an address of the host %v", at, h.addrs)
	}
	if h.sockets[at] != nil {
		return nil, fmt.Errorf("listen at %v: in use", at)
	}
	s := &Socket{host: h, addr: at}
	s.filled.L = &h.net.mu
	h.sockets[at] = s
	return s, nil
}

// Socket is a datagram socket with the methods of udp.Conn. They may be called
// concurrently. Datagrams of one size that come from one sender behind each other
// are sometimes read as one run.
type Socket struct {
	host    *Host
	addr    netip.AddrPort
	filled  sync.Cond // inbox, tooBig or closed changed
	inbox   []parcel
	spare   [][]byte
	bytes   int
	closed  bool
	tooBig  []hint
	told    func(dst netip.AddrPort, mtu int)
	verdict udp.Verdict
}

// hint is what an ICMP error says of a destination.
type hint struct {
	dst netip.AddrPort
	mtu int
}

// parcel is a datagram in an inbox.
type parcel struct {
	from    netip.AddrPort
	payload []byte
}

// put appends to the inbox, or drops as a full socket does.
func (s *Socket) put(from netip.AddrPort, payload []byte) {
	if s.closed || s.bytes+len(payload) > inboxLimit || len(s.inbox) == maxDatagrams {
		return
	}
	var b []byte
	if k := len(s.spare); k > 0 {
		b, s.spare = s.spare[k-1], s.spare[:k-1]
	}
	s.inbox = append(s.inbox, parcel{from, append(b[:0], payload...)})
	s.bytes += len(payload)
	s.filled.Signal()
}

// ReadBatch waits for datagrams and fills ms with what is there. After Close the
// error is net.ErrClosed.
func (s *Socket) ReadBatch(ms []udp.Message) (int, error) {
	mu := &s.host.net.mu
	mu.Lock()
	defer mu.Unlock()
	for len(s.inbox) == 0 && !s.closed {
		if len(s.tooBig) == 0 {
			s.filled.Wait()
			continue
		}
		h, told := s.tooBig[0], s.told
		s.tooBig = s.tooBig[1:]
		mu.Unlock()
		told(h.dst, h.mtu)
		mu.Lock()
	}
	if s.closed {
		return 0, net.ErrClosed
	}
	messages, taken := 0, 0
	for messages < len(ms) && taken < len(s.inbox) {
		taken += s.fill(&ms[messages], s.inbox[taken:])
		messages++
	}
	for _, p := range s.inbox[:taken] {
		s.bytes -= len(p.payload)
		s.spare = append(s.spare, p.payload)
	}
	s.inbox = s.inbox[:copy(s.inbox, s.inbox[taken:])]
	return messages, nil
}

// fill makes a message of the first datagram, or of a run, and says of how many.
func (s *Socket) fill(m *udp.Message, inbox []parcel) int {
	first := inbox[0]
	m.N, m.Addr, m.Segment = copy(m.Buf, first.payload), first.from, 0
	if len(first.payload) == 0 {
		return 1
	}
	limit := s.host.net.runs.IntN(2*maxRun) - maxRun // half of the time there is no run
	n := 1
	for n < min(limit, len(inbox)) && inbox[n].follows(first, m.N, len(m.Buf)) {
		m.N += copy(m.Buf[m.N:], inbox[n].payload)
		m.Segment = len(first.payload)
		n++
		if m.N%m.Segment != 0 {
			break // the last one is shorter
		}
	}
	return n
}

// follows reports whether p may be in a run that begins with first and has used
// that many bytes of room.
func (p parcel) follows(first parcel, used, room int) bool {
	n := len(p.payload)
	return p.from == first.from && n > 0 && n <= len(first.payload) && used+n <= room
}

// WriteBatch sends the datagrams in order. An error concerns ms[n]:
// udp.ErrTooBig where it must not be fragmented and is larger than the known MTU.
func (s *Socket) WriteBatch(ms []udp.Message, df bool) (n int, err error) {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	for i, m := range ms {
		if s.closed {
			return i, net.ErrClosed
		}
		if err := s.host.net.send(s, m.Addr, m.Buf[:m.N], df); err != nil {
			return i, err
		}
	}
	return len(ms), nil
}

// LocalAddr is where the socket listens.
func (s *Socket) LocalAddr() netip.AddrPort { return s.addr }

// PathMTU is the MTU that the host knows for the way to dst, in bytes.
func (s *Socket) PathMTU(dst netip.AddrPort) (int, error) {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	return s.host.net.link(s.host, s.host.net.hostAt(dst)).knownMTU(), nil
}

// OnTooBig sets what is called, by the goroutine that reads, for what TooBig says.
func (s *Socket) OnTooBig(told func(dst netip.AddrPort, mtu int)) {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	s.told = told
}

// TooBig is an ICMP error that tells the socket that packets to dst of more than
// mtu bytes do not get through. It may be forged.
func (s *Socket) TooBig(dst netip.AddrPort, mtu int) {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	if s.told != nil {
		s.tooBig = append(s.tooBig, hint{dst, mtu})
		s.filled.Signal()
	}
}

// Judge adds up what the reader says of the datagrams' authentication.
func (s *Socket) Judge(_ time.Time, v udp.Verdict) {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	s.verdict.RunPassed += v.RunPassed
	s.verdict.RunFailed += v.RunFailed
	s.verdict.SinglePassed += v.SinglePassed
	s.verdict.SingleFailed += v.SingleFailed
}

// Verdict returns all that Judge was told.
func (s *Socket) Verdict() udp.Verdict {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	return s.verdict
}

// Close ends the socket; reads in progress return.
func (s *Socket) Close() error {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	if !s.closed {
		s.closed = true
		delete(s.host.sockets, s.addr)
		s.filled.Broadcast()
	}
	return nil
}

// NAT is a translator in front of one host: it rewrites the source of what the
// host sends, and lets in all that comes to a mapping.
type NAT struct {
	net    *Network
	host   *Host
	public netip.Addr
	next   uint16
	out    map[netip.AddrPort]uint16
	in     map[uint16]netip.AddrPort
	life   time.Duration        // of a mapping that the host does not use; 0: for ever
	used   map[uint16]time.Time // when the host used a mapping last
}

// PutBehindNAT hides the host behind a public address.
func (n *Network) PutBehindNAT(h *Host, public netip.Addr) *NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	nat := &NAT{net: n, host: h, public: public, next: 40001}
	nat.reset()
	h.nat, n.nats[public] = nat, nat
	return nat
}

// Rebind forgets all mappings: what the host sends next comes from new ports, and
// what comes to the old ones is lost.
func (n *NAT) Rebind() {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	n.reset()
}

func (n *NAT) reset() {
	n.out, n.in = map[netip.AddrPort]uint16{}, map[uint16]netip.AddrPort{}
	n.used = map[uint16]time.Time{}
}

// Forget makes the NAT forget mappings that the host has not used for a time.
func (n *NAT) Forget(after time.Duration) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	n.life = after
}

// inside is what a mapping leads to. Needs net.mu.
func (n *NAT) inside(port uint16) (to netip.AddrPort, ok bool) {
	if to, ok = n.in[port]; ok && n.life > 0 && time.Since(n.used[port]) >= n.life {
		delete(n.in, port)
		delete(n.out, to)
		return netip.AddrPort{}, false
	}
	return to, ok
}

// outside finds or makes the mapping of an inside address. Needs net.mu.
func (n *NAT) outside(inside netip.AddrPort) netip.AddrPort {
	port, ok := n.out[inside]
	if ok {
		_, ok = n.inside(port)
	}
	if !ok {
		port = n.next
		n.next++
		n.out[inside], n.in[port] = port, inside
	}
	n.used[port] = time.Now()
	return netip.AddrPortFrom(n.public, port)
}
