package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// answerTime is how long one round trip may take.
	answerTime = 2 * time.Second
	// pingSize is the payload of the UDP round trips in bytes.
	pingSize = 64
)

// tcpRoundTrips sends one byte over a TCP connection and waits until it is back,
// for d.
func tcpRoundTrips(ctx context.Context, b *bed, d time.Duration) (latency, error) {
	client, server, err := openTCP(b)
	if err != nil {
		return latency{}, err
	}
	defer unix.Close(client)
	var echoing sync.WaitGroup
	defer echoing.Wait()
	defer unix.Shutdown(client, unix.SHUT_RDWR)
	echoing.Go(func() { defer unix.Close(server); echo(ctx, server) })
	return roundTrips(ctx, client, make([]byte, 1), d)
}

// openTCP connects the first box with the second one.
func openTCP(b *bed) (client, server int, err error) {
	listener, addr, err := openSocket(b.boxes[1], unix.SOCK_STREAM, b.addrs[1])
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(listener)
	if err := unix.Listen(listener, 1); err != nil {
		return -1, -1, fmt.Errorf("listen: %w", err)
	}
	client, _, err = openSocket(b.boxes[0], unix.SOCK_STREAM, b.addrs[0])
	if err != nil {
		return -1, -1, err
	}
	// SO_SNDTIMEO bounds connect; accept finds the connection waiting.
	tv := unix.NsecToTimeval(answerTime.Nanoseconds())
	unix.SetsockoptTimeval(client, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	unix.SetsockoptTimeval(listener, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err = connect(client, addr); err == nil {
		server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		unix.Close(client)
		return -1, -1, fmt.Errorf("connect box0 with box1 over TCP: %w", err)
	}
	stop := unix.NsecToTimeval(stopTime.Nanoseconds())
	return client, server, errors.Join(
		unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &stop),
		unix.SetsockoptInt(client, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(server, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
	)
}

// udpRoundTrips sends a datagram and waits until it is back, for d.
func udpRoundTrips(ctx context.Context, b *bed, d time.Duration) (latency, error) {
	client, server, err := openUDP(b.boxes[0], b.boxes[1], b.addrs[0], b.addrs[1])
	if err != nil {
		return latency{}, err
	}
	defer unix.Close(client)
	ctx, cancel := context.WithCancel(ctx)
	var echoing sync.WaitGroup
	defer echoing.Wait()
	defer cancel()
	echoing.Go(func() { defer unix.Close(server); echo(ctx, server) })
	return roundTrips(ctx, client, make([]byte, pingSize), d)
}

// echo sends back what it reads until the other side ends or ctx is done.
func echo(ctx context.Context, fd int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 2*pingSize)
	for ctx.Err() == nil {
		n, err := unix.Read(fd, buf)
		if waited(err) {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		unix.Write(fd, buf[:n])
	}
}

// roundTrips times msg to the echo and back, over and over, for d.
func roundTrips(ctx context.Context, fd int, msg []byte, d time.Duration) (latency, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	trips := make([]time.Duration, 0, int(d/(10*time.Microsecond)))
	lost := 0
	answer := make([]byte, 2*pingSize)
	for start, seq := time.Now(), uint64(0); time.Since(start) < d; seq++ {
		if err := ctx.Err(); err != nil {
			return latency{}, err
		}
		if len(msg) >= 8 {
			binary.BigEndian.PutUint64(msg, seq)
		}
		sent := time.Now()
		if _, err := unix.Write(fd, msg); err != nil {
			return latency{}, fmt.Errorf("send a request: %w", err)
		}
		ok, err := answered(ctx, fd, msg, answer)
		if err != nil {
			return latency{}, err
		}
		if ok {
			trips = append(trips, time.Since(sent))
		} else {
			lost++
		}
	}
	if len(trips) == 0 {
		return latency{}, fmt.Errorf("none of %d requests was answered", lost)
	}
	return latencyOf(trips, lost), nil
}

// answered waits for what msg comes back as. A datagram may be lost, a byte on a
// connection may not.
func answered(ctx context.Context, fd int, msg, buf []byte) (bool, error) {
	for deadline := time.Now().Add(answerTime); time.Now().Before(deadline) && ctx.Err() == nil; {
		n, err := unix.Read(fd, buf)
		switch {
		case waited(err):
			if len(msg) > 1 {
				return false, nil
			}
		case err != nil:
			return false, fmt.Errorf("read an answer: %w", err)
		case n == 0:
			return false, errors.New("the connection was closed")
		case string(buf[:n]) == string(msg):
			return true, nil
		}
	}
	if len(msg) == 1 {
		return false, errors.Join(fmt.Errorf("no answer in %v", answerTime), ctx.Err())
	}
	return false, nil
}
