package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

const (
	// labPrefix is what all our labs' names begin with.
	labPrefix = "meshd-bench-"
	// underlay is the hosts' interface towards each other.
	underlay = "eth0"
	// overlayBridge is the bridge of hosts whose overlay makes none.
	overlayBridge = "br-ov"
	// device is the interface of overlays that we may name.
	device = "ov0"
	// pollTime is how often something is looked at that is waited for.
	pollTime = 20 * time.Millisecond
	// readyTime is how long an overlay may take to carry packets.
	readyTime = 30 * time.Second
)

// segmentation is what an interface does so that large packets leave it whole.
var segmentation = []string{
	"tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation",
	"tx-tcp6-segmentation", "tx-generic-segmentation", "tx-udp-segmentation",
	"tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gso-partial",
	"tx-gso-list", "tx-sctp-segmentation",
}

// receiveOffload is what joins received packets, off on a veth unless it is told.
const receiveOffload = "rx-gro"

// bed is hosts with a container each and whatever overlay joins them.
type bed struct {
	lab   *lab.Lab
	mtu   int // of the underlay, bytes
	hosts []*lab.Namespace
	boxes []*lab.Namespace
	addrs []netip.Addr // of the boxes
	// packet is the largest packet that must pass between boxes, bytes.
	packet int
	peers  []*peer.Peer // the hosts' meshd, where it is that
	ends   []func()     // to be called before the lab is closed, last first
	served map[int]bool // boxes with a running iperf3 server
}

// newBed makes n hosts on one underlay and their boxes, which nothing joins yet.
func newBed(prefix string, n, mtu int) (*bed, error) {
	l, err := lab.New(prefix)
	if err != nil {
		return nil, err
	}
	b := &bed{lab: l, mtu: mtu, served: map[int]bool{}}
	if err := b.make(n); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return b, nil
}

func (b *bed) make(n int) error {
	for i := range n {
		host, err1 := b.lab.Namespace(fmt.Sprintf("host%d", i))
		box, err2 := b.lab.Namespace(fmt.Sprintf("box%d", i))
		if err := errors.Join(err1, err2, os.MkdirAll(b.dir(i), 0o755)); err != nil {
			return err
		}
		b.hosts, b.boxes = append(b.hosts, host), append(b.boxes, box)
	}
	if err := b.connect(); err != nil {
		return err
	}
	for i, h := range b.hosts {
		if err := errors.Join(h.SetMTU(underlay, b.mtu), h.AddAddress(underlay, netip.PrefixFrom(hostAddr(i), 24))); err != nil {
			return err
		}
	}
	return nil
}

// connect lays one cable between two hosts, and a switch between more.
func (b *bed) connect() error {
	if len(b.hosts) == 2 {
		return lab.Connect(b.hosts[0], underlay, b.hosts[1], underlay)
	}
	lan, err := b.lab.Switch("lan")
	if err != nil {
		return err
	}
	for _, h := range b.hosts {
		if err := lan.Plug(h, underlay); err != nil {
			return err
		}
	}
	return nil
}

// close ends and removes everything.
func (b *bed) close() error {
	for i := len(b.ends) - 1; i >= 0; i-- {
		b.ends[i]()
	}
	b.ends = nil
	return b.lab.Close()
}

// dir is a directory for the files of a host.
func (b *bed) dir(host int) string { return filepath.Join(b.lab.Dir(), fmt.Sprintf("host%d", host)) }

// file is a path in the directory of a host.
func (b *bed) file(host int, name string) string { return filepath.Join(b.dir(host), name) }

// write writes a file of a host; others may not read it.
func (b *bed) write(host int, name, content string) error {
	path := b.file(host, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}

func hostAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}) }

// start starts an overlay's daemon on a host; its output is in the host's log.
func (b *bed) start(host int, path string, args []string, env ...string) error {
	_, err := b.hosts[host].Start(lab.Command{
		Path: path, Args: args, Env: env, Log: b.file(host, "log"),
	})
	return err
}

// bridge puts an overlay's interface on a bridge of its host with an MTU, once
// it is there, and the host's box too.
func (b *bed) bridge(ctx context.Context, host int, link string, mtu int) error {
	h := b.hosts[host]
	if err := b.appears(ctx, host, link); err != nil {
		return err
	}
	if err := h.AddBridge(overlayBridge); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return h.SetMTU(link, mtu) },
		func() error { return h.Join(link, overlayBridge) },
		func() error { return h.SetMTU(overlayBridge, mtu) },
		func() error { return h.Up(link) },
		func() error { return b.attach(host, overlayBridge) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	b.packet = mtu
	return nil
}

// appears waits until a host has an interface.
func (b *bed) appears(ctx context.Context, host int, link string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	err := lab.Poll(ctx, pollTime, func() error {
		_, err := b.hosts[host].Look(link)
		return err
	})
	if err != nil {
		return fmt.Errorf("host%d has no interface %s: %w", host, link, err)
	}
	return nil
}

// attach puts a host's box on a bridge; all boxes share one Ethernet then.
func (b *bed) attach(host int, bridge string) error {
	addr := netip.AddrFrom4([4]byte{192, 168, 99, byte(host + 1)})
	b.addrs = append(b.addrs, addr)
	addr6 := netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 15: byte(host + 1)})
	return lab.Attach(b.boxes[host], b.hosts[host], bridge, netip.PrefixFrom(addr, 24), netip.PrefixFrom(addr6, 64))
}

// subnet is what is behind a host where the overlay routes.
func subnet(host int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(host), 0}), 24)
}

// route makes a host the gateway of its box, with an MTU, for overlays that
// carry IP packets.
func (b *bed) route(host, mtu int) error {
	h, box := b.hosts[host], b.boxes[host]
	net := subnet(host)
	gateway := net.Addr().Next()
	port := lab.HostPort(box)
	addr := gateway.Next()
	b.addrs = append(b.addrs, addr)
	b.packet = mtu
	steps := []func() error{
		func() error { return lab.Connect(box, lab.ContainerLink, h, port) },
		func() error { return h.SetMTU(port, mtu) },
		func() error { return box.SetMTU(lab.ContainerLink, mtu) },
		func() error { return h.AddAddress(port, netip.PrefixFrom(gateway, 24)) },
		func() error { return box.AddAddress(lab.ContainerLink, netip.PrefixFrom(addr, 24)) },
		func() error {
			return box.AddRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway, lab.ContainerLink)
		},
		func() error { return h.Sysctl("net.ipv4.ip_forward", "1") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// setUnderlay makes the underlay pass packets up to 64 KiB whole (onVeth), as a
// veth does by itself, or none larger than its MTU (onWire, onWireNoGRO). On a
// wire the receiver joins packets again before it looks at them, as the drivers
// of network cards have the kernel do; with onWireNoGRO it does not.
func (b *bed) setUnderlay(to string) error {
	for _, h := range b.hosts {
		if err := h.SetFeatures(underlay, to == onVeth, segmentation...); err != nil {
			return err
		}
		if err := h.SetFeatures(underlay, to == onWire, receiveOffload); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until packets of full size pass between the first box and the
// others.
func (b *bed) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for i := 1; i < len(b.boxes); i++ {
		err := lab.Poll(ctx, pollTime, func() error {
			short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			_, err := b.boxes[0].PingSize(short, b.addrs[i], b.packet-28) // IP and ICMP headers
			return err
		})
		if err != nil {
			return fmt.Errorf("packets of %d bytes do not pass to box%d: %w", b.packet, i, err)
		}
	}
	return nil
}
