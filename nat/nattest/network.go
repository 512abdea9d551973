package nattest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// defaultMTU is the largest IP packet in bytes.
const defaultMTU = 1500

// Config says how an Internet is. The zero value loses nothing and takes no time.
type Config struct {
	Seed    uint64        // decides on losses and on random ports
	Latency time.Duration // one way, through the Internet; inside of NATs it is none
	// Delay is Latency by datagram; negative: it is lost. It is called for one at a time,
	// and must not call the network. nil: all take Latency.
	Delay func(Datagram) time.Duration
	Loss  float64 // share of datagrams that the Internet loses, 0 to 1
	MTU   int     // bytes of an IP packet that every path takes; 0: 1500
}

// Network is an Internet that hosts and NATs are connected to. Datagrams arrive
// once, and in order unless Config.Delay changes that. Its methods, and those of all that is connected to it, may
// be called concurrently.
type Network struct {
	*realm
	config Config

	mu      sync.Mutex // guards all below, and the state of all that is connected
	rng     *rand.Rand
	seen    []func(Datagram)
	flights []flight // in order
	sites   int
	public  netip.Addr // the last address of a site without NAT
}

// flight is a datagram on its way through the Internet.
type flight struct {
	at time.Time
	Datagram
}

// Datagram is a datagram as it is on the Internet.
type Datagram struct {
	From, To netip.AddrPort
	Payload  []byte
}

// New makes an Internet.
func New(c Config) *Network {
	c.MTU = cmp.Or(c.MTU, defaultMTU)
	n := &Network{config: c, public: publicRange.Addr(), rng: rand.New(rand.NewPCG(c.Seed, 0))}
	n.realm = newRealm(n, nil)
	return n
}

// Watch calls seen for each datagram that enters the Internet, before it is lost
// or not. seen must not call the network. The payload is borrowed.
func (n *Network) Watch(seen func(Datagram)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, seen)
}

// crossLocked takes a datagram through the Internet.
func (n *Network) crossLocked(d Datagram) {
	for _, f := range n.seen {
		f(d)
	}
	if n.config.Loss > 0 && n.rng.Float64() < n.config.Loss {
		return
	}
	delay := n.config.Latency
	if n.config.Delay != nil {
		delay = n.config.Delay(d)
	}
	switch {
	case delay < 0:
		return
	case delay == 0:
		n.forwardLocked(d)
		return
	}
	at := time.Now().Add(delay)
	i := len(n.flights)
	for i > 0 && n.flights[i-1].at.After(at) {
		i--
	}
	n.flights = slices.Insert(n.flights, i, flight{at, d})
	time.AfterFunc(delay, n.land)
}

// land forwards what has crossed. Timers of one moment may run in any order, so
// each takes all that is due.
func (n *Network) land() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.flights) > 0 && !n.flights[0].at.After(now) {
		d := n.flights[0].Datagram
		n.flights = n.flights[1:]
		n.forwardLocked(d)
	}
}

// realm is where an address means one host: the Internet, or what is inside of a
// NAT.
type realm struct {
	net   *Network
	way   *NAT // out; nil: this is the Internet
	hosts map[netip.Addr]*Host
	// behind are the NATs in this realm, by their outside address and by those
	// behind them that they do not translate.
	behind map[netip.Addr]*NAT
}

func newRealm(n *Network, way *NAT) *realm {
	return &realm{net: n, way: way, hosts: map[netip.Addr]*Host{}, behind: map[netip.Addr]*NAT{}}
}

// Host adds a host with addresses of either family. An IPv6 address is never
// translated. It panics if an address is taken.
func (r *realm) Host(addrs ...netip.Addr) *Host {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	h := &Host{realm: r, Addrs: addrs, sockets: map[netip.AddrPort]*Socket{}}
	for _, a := range addrs {
		r.claimLocked(a)
		r.hosts[a] = h
		for in := r; in.way != nil && in.way.routes(a); in = in.way.outer {
			in.way.outer.claimLocked(a)
			in.way.outer.behind[a] = in.way
		}
	}
	return h
}

// NAT adds a NAT whose outside address is in this realm; hosts and NATs that are
// added to it are inside. It panics if the address is taken.
func (r *realm) NAT(b Behaviour, outside netip.Addr) *NAT {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	r.claimLocked(outside)
	n := &NAT{Behaviour: b, Addr: outside, outer: r}
	n.realm = newRealm(r.net, n)
	n.rebootLocked()
	r.behind[outside] = n
	return n
}

func (r *realm) claimLocked(a netip.Addr) {
	if r.hosts[a] != nil || r.behind[a] != nil {
		panic(fmt.Sprintf("nattest: two hosts or NATs with the address %v", a))
	}
}

// enterLocked takes a datagram that comes into the realm from inside.
func (r *realm) enterLocked(d Datagram) {
	if r.way == nil {
		r.net.crossLocked(d)
		return
	}
	r.forwardLocked(d)
}

// forwardLocked brings a datagram to its address. What has none is lost.
func (r *realm) forwardLocked(d Datagram) {
	to := d.To.Addr()
	switch {
	case r.hosts[to] != nil:
		r.hosts[to].takeLocked(d)
	case r.behind[to] != nil:
		r.behind[to].inLocked(d)
	case r.way == nil:
	case r.way.Addr == to:
		r.way.hairpinLocked(d)
	default:
		r.way.outLocked(d)
	}
}
