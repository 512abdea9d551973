package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// Transfer sends size random bytes over TCP from one namespace to an address of
// another and checks their hash there. It returns the time it took.
func Transfer(ctx context.Context, from, to *Namespace, addr netip.Addr, size int64) (time.Duration, error) {
	l, err := to.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return 0, err
	}
	defer l.Close()
	start := time.Now()
	received := make(chan error, 1)
	var got [sha256.Size]byte
	var n int64
	go func() {
		var err error
		got, n, err = receive(ctx, l)
		received <- err
	}()
	want, err := send(ctx, from, l.Addr().String(), size)
	if err != nil {
		l.Close() // the other side may still wait for a connection
	}
	if err := errors.Join(err, <-received); err != nil {
		return 0, fmt.Errorf("transfer from %s to %s: %w", from.Name, to.Name, err)
	}
	if got != want || n != size {
		return 0, fmt.Errorf("transfer from %s to %s: %d of %d bytes, hash %x, want %x",
			from.Name, to.Name, n, size, got[:4], want[:4])
	}
	return time.Since(start), nil
}

func send(ctx context.Context, from *Namespace, addr string, size int64) (sum [sha256.Size]byte, err error) {
	conn, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		return sum, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	source := rand.NewChaCha8(sha256.Sum256([]byte(addr)))
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(conn, hash), io.LimitReader(source, size)); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(hash.Sum(nil)), conn.Close()
}

func receive(ctx context.Context, l net.Listener) (sum [sha256.Size]byte, n int64, err error) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	conn, err := l.Accept()
	if err != nil {
		return sum, 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	hash := sha256.New()
	n, err = io.Copy(hash, conn)
	return [sha256.Size]byte(hash.Sum(nil)), n, err
}
