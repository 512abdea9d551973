package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// streams are two ends of a stream over links of that kind, opened by a.
func streams(t *testing.T, l Link) (n *Network, ha, hb *Host, a, b *Stream) {
	t.Helper()
	n = NewNetwork(1, l)
	ha, hb = n.Host(netip.MustParseAddr("10.0.0.1")), n.Host(netip.MustParseAddr("10.0.0.2"))
	at := netip.MustParseAddrPort("10.0.0.2:6783")
	listener, err := hb.ListenStream(at)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = ha.DialStream(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if b, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close(); listener.Close() })
	return n, ha, hb, a, b
}

// All bytes arrive in order, whatever the link does, and take their time.
func TestStreamIsReliable(t *testing.T) {
	for _, l := range []Link{{}, {Latency: 10 * time.Millisecond}, {Latency: time.Millisecond, Jitter: 50 * time.Millisecond, Loss: 0.2, MTU: 600}} {
		synctest.Test(t, func(t *testing.T) {
			_, _, _, a, b := streams(t, l)
			sent := bytes.Repeat([]byte("0123456789abcdef0"), 60_000)
			start := time.Now()
			go func() {
				a.Write(sent)
				a.Close()
			}()
			got, err := io.ReadAll(b)
			if !bytes.Equal(got, sent) || err != nil {
				t.Errorf("%d bytes arrived, want %d; %v", len(got), len(sent), err)
			}
			if took := time.Since(start); took < l.Latency {
				t.Errorf("it took %v over a latency of %v", took, l.Latency)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read after Close = %v", err)
			}
		})
	}
}

// What is sent into a cut arrives when that is healed, and who dials waits.
func TestStreamOverACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ha, hb, a, b := streams(t, Link{Latency: time.Millisecond})
		n.Connect(ha, hb, Link{Cut: true})
		a.Write([]byte("x"))
		b.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read over a cut = %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := ha.DialStream(ctx, netip.MustParseAddrPort("10.0.0.2:6783")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("DialStream over a cut = %v", err)
		}
		n.Connect(ha, hb, Link{Latency: time.Millisecond})
		b.SetReadDeadline(time.Time{})
		start := time.Now()
		if _, err := io.ReadFull(b, make([]byte, 1)); err != nil || time.Since(start) > 10*time.Second {
			t.Errorf("Read = %v after %v", err, time.Since(start))
		}
	})
}

// Who does not read stops who writes; who closes resets him.
func TestStreamWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, _, a, b := streams(t, Link{Latency: time.Millisecond})
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write(make([]byte, 2*streamWindow))
		if n != streamWindow || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v; want %d and a timeout", n, err, streamWindow)
		}
		b.Close()
		a.SetWriteDeadline(time.Time{})
		time.Sleep(time.Second)
		for range 2 {
			_, err = a.Write(make([]byte, 10))
			time.Sleep(time.Second)
		}
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write to who has closed = %v", err)
		}
	})
}

func TestStreamRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1, Link{})
		a := n.Host(netip.MustParseAddr("10.0.0.1"))
		n.Host(netip.MustParseAddr("10.0.0.2"))
		if _, err := a.DialStream(t.Context(), netip.MustParseAddrPort("10.0.0.2:1")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("DialStream = %v, want refused", err)
		}
	})
}
