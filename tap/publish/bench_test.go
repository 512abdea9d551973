package publish

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkStream sends through a proxy and directly; through/direct is the share of
// the direct throughput that is left. Both ends and the proxy share the processors.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			direct := service(b, "127.0.0.1", func(c *net.TCPConn) {
				_, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, make([]byte, 128<<10))
				_, _ = c.Write([]byte("x"))
			})
			p := start(b, spec("", false), at(direct), Options{})
			b.SetBytes(int64(size))
			send(b, to(p, "127.0.0.1"), size, 0)
			through := b.Elapsed()
			b.StopTimer()
			alone := send(b, direct, size, b.N)
			b.ReportMetric(float64(alone)/float64(through), "through/direct")
		})
	}
}

// send writes n times size bytes, or as often as b wants if n is 0, and waits until
// all has arrived.
func send(b *testing.B, addr netip.AddrPort, size, n int) time.Duration {
	c := dial(b, addr)
	defer c.Close()
	buf := make([]byte, size)
	write := func() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	begun := time.Now()
	if n == 0 {
		for b.Loop() {
			write()
		}
	}
	for range n {
		write()
	}
	_ = c.CloseWrite()
	_, _ = io.ReadAll(c)
	return time.Since(begun)
}

// BenchmarkStreamRound is a byte there and back.
func BenchmarkStreamRound(b *testing.B) {
	service := service(b, "127.0.0.1", func(c *net.TCPConn) {
		_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	})
	p := start(b, spec("", false), at(service), Options{})
	for name, addr := range map[string]netip.AddrPort{"direct": service, "through": to(p, "127.0.0.1")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			c := dial(b, addr)
			buf := make([]byte, 1)
			for b.Loop() {
				_, _ = c.Write(buf)
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStreamConnect is a connection with one answer.
func BenchmarkStreamConnect(b *testing.B) {
	service := service(b, "127.0.0.1", says("x"))
	p := start(b, spec("", false), at(service), Options{})
	for name, addr := range map[string]netip.AddrPort{"direct": service, "through": to(p, "127.0.0.1")} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				hear(b, addr)
			}
		})
	}
}

// BenchmarkDatagramRound is a datagram and its answer.
func BenchmarkDatagramRound(b *testing.B) {
	service := udpService(b, "127.0.0.1", "")
	p := start(b, spec("", true), at(service), Options{})
	for name, addr := range map[string]netip.AddrPort{"direct": service, "through": to(p, "127.0.0.1")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, 1400)
			for b.Loop() {
				_, _ = c.Write(buf)
				if _, err := c.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIsLocal is what a connection costs more whose target has the number of the
// published port.
func BenchmarkIsLocal(b *testing.B) {
	a := netip.MustParseAddr("192.0.2.77")
	for b.Loop() {
		isLocal(a)
	}
}
