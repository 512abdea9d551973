package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A datagram of the flood: which step it belongs to, its number in it, zeros.
//
//	0      4        8 … 63
//	step   number   0
const (
	floodPayload = 64 // bytes
	floodNumber  = 4
	floodBatch   = 64                     // most datagrams per system call
	floodTick    = 100 * time.Microsecond // how often the sender sends, at most
	// floodLag is how far the sender may fall behind its rate before it gives the
	// rest up: the machine cannot offer that much.
	floodLag = 5 * time.Millisecond
	// floodLinger is how long after the last datagram the next one may come.
	floodLinger = 50 * time.Millisecond
	maxLoss     = 0.01
)

// step is one offered rate of the small-packet ramp.
type step struct {
	rate     float64 // that was asked for, datagrams per second
	sent     int
	received int // each datagram once
	took     time.Duration
}

func (s step) offered() float64 { return s.perSecond(s.sent) }
func (s step) carried() float64 { return s.perSecond(s.received) }

func (s step) perSecond(n int) float64 {
	if s.took <= 0 {
		return 0
	}
	return float64(n) / s.took.Seconds()
}

// good says that less than 1 % was lost.
func (s step) good() bool {
	return s.sent > 0 && float64(s.sent-s.received) < maxLoss*float64(s.sent)
}

// exhausted says that the sender could not offer what was asked for.
func (s step) exhausted() bool { return s.offered() < 0.8*s.rate }

const (
	rampStart  = 20000 // datagrams per second
	rampFactor = 1.5
	rampFloor  = 500
	rampRefine = 2 // halvings between the last good rate and the first bad one
)

// climb finds the highest rate that loses less than 1 %. A rate is bad, or more
// than can be offered, when it is so twice in a row: the machine has other work
// as well. limited says that it is the most that could be offered.
func climb(try func(rate float64) (step, error)) (best step, limited bool, err error) {
	once := func(rate float64) (step, error) {
		s, err := try(rate)
		if err == nil && (!s.good() || s.exhausted()) {
			s, err = try(rate)
		}
		if err == nil && s.good() && s.carried() > best.carried() {
			best = s
		}
		return s, err
	}
	good, bad, err := bracket(once)
	if err != nil || bad == 0 {
		return best, err == nil, err
	}
	for range rampRefine {
		middle := math.Sqrt(good * bad)
		s, err := once(middle)
		if err != nil {
			return best, false, err
		}
		if s.good() {
			good = middle
		} else {
			bad = middle
		}
	}
	return best, false, nil
}

// bracket walks up, or down, until it has a good rate and a bad one a step above
// it; bad is 0 where more than the last good one cannot be offered.
func bracket(try func(rate float64) (step, error)) (good, bad float64, err error) {
	for rate := float64(rampStart); rate >= rampFloor; {
		s, err := try(rate)
		switch {
		case err != nil:
			return 0, 0, err
		case s.good() && s.exhausted():
			return rate, 0, nil
		case s.good():
			good = rate
		default:
			bad = rate
		}
		switch {
		case good > 0 && bad > 0:
			return good, bad, nil
		case bad > 0:
			rate /= rampFactor
		default:
			rate *= rampFactor
		}
	}
	return 0, 0, fmt.Errorf("more than 1 %% is lost at %d datagrams per second already", rampFloor)
}

// flood sends small datagrams from the first box to the second one.
type flood struct {
	out, in int
	step    uint32

	mu       sync.Mutex // guards what follows
	current  uint32     // step whose datagrams count
	seen     []uint64   // bitmap of their numbers
	received int
}

// ramp is what a small-packet ramp found.
type ramp struct {
	best    step
	limited bool // by the sender
	all     int  // datagrams that all steps carried
}

// rampUp measures the small-packet rate with steps of d each.
func rampUp(ctx context.Context, b *bed, d time.Duration) (r ramp, err error) {
	f := &flood{}
	f.out, f.in, err = openUDP(b.boxes[0], b.boxes[1], b.addrs[0], b.addrs[1])
	if err != nil {
		return r, err
	}
	defer unix.Close(f.out)
	defer unix.Close(f.in)
	reading, stop := context.WithCancel(ctx)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer stop()
	reader.Go(func() { f.read(reading) })
	r.best, r.limited, err = climb(func(rate float64) (step, error) {
		s, err := f.try(ctx, rate, d)
		r.all += s.received
		return s, err
	})
	return r, err
}

// try offers a rate for d.
func (f *flood) try(ctx context.Context, rate float64, d time.Duration) (step, error) {
	f.step++
	f.mu.Lock()
	f.current, f.received = f.step, 0
	clear(f.seen)
	f.mu.Unlock()
	s := step{rate: rate}
	var err error
	if s.sent, s.took, err = f.send(ctx, rate, d); err != nil {
		return s, err
	}
	s.received = f.settle(ctx, s.sent)
	return s, ctx.Err()
}

// settle waits until all datagrams are there or none comes any more.
func (f *flood) settle(ctx context.Context, sent int) int {
	last, since := -1, time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		f.mu.Lock()
		n := f.received
		f.mu.Unlock()
		if n != last {
			last, since = n, time.Now()
		}
		if n >= sent || time.Since(since) > floodLinger {
			return n
		}
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
	}
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32
	_ [4]byte
}

// messages are what sendmmsg and recvmmsg take.
type messages struct {
	hdrs [floodBatch]mmsghdr
	iovs [floodBatch]unix.Iovec
	data [floodBatch][floodPayload]byte
}

func newMessages() *messages {
	m := &messages{}
	for i := range m.hdrs {
		m.iovs[i].Base = &m.data[i][0]
		m.iovs[i].SetLen(floodPayload)
		m.hdrs[i].Iov = &m.iovs[i]
		m.hdrs[i].SetIovlen(1)
	}
	return m
}

// call does sendmmsg or recvmmsg with the first n messages.
func (m *messages) call(trap uintptr, fd, n int, flags uintptr) (int, error) {
	r, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs)), uintptr(n), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// send offers datagrams at a rate, in bursts of a tenth of a millisecond's worth,
// and tells how many the kernel took and how long it was at it.
func (f *flood) send(ctx context.Context, rate float64, d time.Duration) (sent int, took time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Without it the kernel wakes us 50 µs late.
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	m := newMessages()
	start := time.Now()
	var behind time.Duration // time that was given up
	for {
		elapsed := time.Since(start)
		if elapsed >= d || ctx.Err() != nil {
			return sent, elapsed, nil
		}
		n := int(rate*(elapsed-behind).Seconds()) - sent
		if n < 1 {
			pause(floodTick)
			continue
		}
		if late := time.Duration(float64(n) / rate * float64(time.Second)); late > floodLag {
			behind += late - floodLag
		}
		n, err := f.burst(m, sent, min(n, floodBatch))
		if err != nil {
			return sent, elapsed, fmt.Errorf("send small datagrams: %w", err)
		}
		sent += n
	}
}

// burst sends n datagrams from number first on and tells how many were taken.
func (f *flood) burst(m *messages, first, n int) (int, error) {
	for i := range n {
		binary.BigEndian.PutUint32(m.data[i][:], f.step)
		binary.BigEndian.PutUint32(m.data[i][floodNumber:], uint32(first+i))
	}
	n, err := m.call(unix.SYS_SENDMMSG, f.out, n, 0)
	if waited(err) || err == unix.ENOBUFS {
		return 0, nil
	}
	return n, err
}

func pause(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	unix.Nanosleep(&ts, nil)
}

// read counts what arrives until ctx is done.
func (f *flood) read(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m := newMessages()
	for ctx.Err() == nil {
		n, err := m.call(unix.SYS_RECVMMSG, f.in, floodBatch, unix.MSG_WAITFORONE)
		if waited(err) || err == unix.ECONNREFUSED {
			continue
		}
		if err != nil {
			return
		}
		f.mu.Lock()
		for i := range n {
			f.countLocked(m.data[i][:m.hdrs[i].n])
		}
		f.mu.Unlock()
	}
}

// countLocked counts a datagram of the present step, once.
func (f *flood) countLocked(b []byte) {
	if len(b) != floodPayload || binary.BigEndian.Uint32(b) != f.current {
		return
	}
	n := int(binary.BigEndian.Uint32(b[floodNumber:]))
	const limit = 1 << 26 // no step has as many
	if n >= limit {
		return
	}
	if need := n/64 + 1; need > len(f.seen) {
		f.seen = append(f.seen, make([]uint64, need-len(f.seen))...)
	}
	if bit := uint64(1) << (n % 64); f.seen[n/64]&bit == 0 {
		f.seen[n/64] |= bit
		f.received++
	}
}
