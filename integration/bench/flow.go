package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"meshd/internal/lab"
)

// end is where a flow begins or ends.
type end struct {
	box  *lab.Namespace
	addr netip.Addr
}

// flow is one stream of checked traffic. Its counters may be read at any time.
type flow struct {
	name     string
	from, to end
	carry    func(ctx context.Context, f *flow) error
	bytes    atomic.Int64 // received and found good
	checked  atomic.Int64 // files, patterns or datagrams
	sent     atomic.Int64 // datagrams
	moved    atomic.Int64 // unix nanoseconds of the last progress
}

func newFlow(name string, ends []end, carry func(context.Context, *flow) error) *flow {
	f := &flow{name: name, from: ends[0], to: ends[1], carry: carry}
	f.moved.Store(time.Now().UnixNano())
	return f
}

func (f *flow) run(ctx context.Context) error { return f.carry(ctx, f) }

// good counts n bytes that arrived as they were sent.
func (f *flow) good(n int) {
	f.bytes.Add(int64(n))
	f.moved.Store(time.Now().UnixNano())
}

// idle is how long nothing has moved.
func (f *flow) idle(now time.Time) time.Duration { return now.Sub(time.Unix(0, f.moved.Load())) }

// String is a line of the report.
func (f *flow) String() string {
	out := fmt.Sprintf("%s %.2f GB, %d checked", f.name, float64(f.bytes.Load())/1e9, f.checked.Load())
	if sent := f.sent.Load(); sent > 0 {
		out += fmt.Sprintf(" of %d", sent)
	}
	return out
}

// errDiffers says that something else arrived than was sent.
var errDiffers = errors.New("what arrived is not what was sent")

// connect opens a TCP connection for the flow; both ends close with ctx.
func (f *flow) connect(ctx context.Context) (out, in net.Conn, err error) {
	l, err := f.to.box.Listen("tcp", netip.AddrPortFrom(f.to.addr, 0).String())
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	out, err = f.from.box.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	if in, err = l.Accept(); err != nil {
		out.Close()
		return nil, nil, err
	}
	context.AfterFunc(ctx, func() { out.Close(); in.Close() })
	return out, in, nil
}

// both runs sender and receiver; the first error ends both.
func both(ctx context.Context, send, receive func() error, stop func()) error {
	var wg sync.WaitGroup
	var errs [2]error
	for i, f := range []func() error{send, receive} {
		wg.Go(func() {
			errs[i] = f()
			stop()
		})
	}
	wg.Wait()
	if errors.Is(errs[1], errDiffers) || errs[0] == nil {
		return errs[1]
	}
	return errs[0]
}

// A file on the wire: its length, its bytes. The receiver answers with what it
// has hashed, which the sender compares.
//
//	0        8 …            sender to receiver
//	length   bytes
//
//	0        32             receiver to sender
//	SHA-256
const (
	fileHead  = 8
	fileLimit = 32 << 20 // bytes
)

// files sends files of random size and content in writes of random size.
func files(ctx context.Context, f *flow) error {
	out, in, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer out.Close()
	defer in.Close()
	return both(ctx,
		func() error { return sendFiles(ctx, f, out) },
		func() error { return receiveFiles(f, in) },
		func() { out.Close(); in.Close() })
}

func sendFiles(ctx context.Context, f *flow, conn io.ReadWriter) error {
	source := rand.NewChaCha8(sha256.Sum256([]byte(f.name + time.Now().String())))
	r := rand.New(source)
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		size := 1 + r.IntN(fileLimit)
		if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(size))); err != nil {
			return err
		}
		hash := sha256.New()
		for left := size; left > 0; {
			// Now and then a few bytes only, so that segments are of all sizes.
			n := 1 + r.IntN(len(buf))
			if r.IntN(4) == 0 {
				n = 1 + r.IntN(100)
			}
			piece := buf[:min(n, left)]
			source.Read(piece)
			hash.Write(piece)
			if _, err := conn.Write(piece); err != nil {
				return err
			}
			left -= len(piece)
		}
		var answer [sha256.Size]byte
		if _, err := io.ReadFull(conn, answer[:]); err != nil {
			return err
		}
		if want := [sha256.Size]byte(hash.Sum(nil)); answer != want {
			return fmt.Errorf("%w: a file of %d bytes has SHA-256 %x, there %x", errDiffers, size, want, answer)
		}
		f.checked.Add(1)
	}
	return nil
}

func receiveFiles(f *flow, conn io.ReadWriter) error {
	buf := make([]byte, 256<<10)
	for {
		var head [fileHead]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint64(head[:])
		if size == 0 || size > fileLimit {
			return fmt.Errorf("%w: a file of %d bytes was announced", errDiffers, size)
		}
		hash := sha256.New()
		for left := int(size); left > 0; {
			n, err := conn.Read(buf[:min(len(buf), left)])
			hash.Write(buf[:n])
			left -= n
			f.good(n)
			if err != nil {
				return err
			}
		}
		if _, err := conn.Write(hash.Sum(nil)); err != nil {
			return err
		}
	}
}

// patternSize is an odd length in bytes, so that the pattern stands at another
// place in every segment and buffer.
const patternSize = 1<<20 - 3

// pattern keeps a path full with one block of random bytes over and over, which
// is cheap to compare.
func pattern(ctx context.Context, f *flow) error {
	out, in, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer out.Close()
	defer in.Close()
	block := make([]byte, patternSize)
	rand.NewChaCha8(sha256.Sum256([]byte(f.name))).Read(block)
	return both(ctx,
		func() error {
			for {
				if _, err := out.Write(block); err != nil {
					return err
				}
			}
		},
		func() error { return comparePattern(f, in, block) },
		func() { out.Close(); in.Close() })
}

func comparePattern(f *flow, in io.Reader, block []byte) error {
	buf := make([]byte, 256<<10)
	for at := 0; ; {
		n, err := in.Read(buf)
		for got := buf[:n]; len(got) > 0; {
			want := block[at:min(len(block), at+len(got))]
			if !bytes.Equal(got[:len(want)], want) {
				return fmt.Errorf("%w: after %d bytes", errDiffers, f.bytes.Load())
			}
			f.good(len(want))
			got = got[len(want):]
			if at += len(want); at == len(block) {
				at = 0
				f.checked.Add(1)
			}
		}
		if err != nil {
			return err
		}
	}
}

// A datagram: the check of what follows, a number, random bytes.
//
//	0       4        12 …
//	CRC-C   number   bytes
const (
	datagramHead  = 12
	datagramMax   = 4000 // bytes: some need IP fragments
	datagramRate  = 500  // per second
	datagramBurst = 5    // sent in a row
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// datagrams sends datagrams of random size. They may be lost, not changed.
func datagrams(ctx context.Context, f *flow) error {
	in, err := f.to.box.ListenPacket("udp", netip.AddrPortFrom(f.to.addr, 0).String())
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := f.from.box.Dial(ctx, "udp", in.LocalAddr().String())
	if err != nil {
		return err
	}
	defer out.Close()
	stop := func() { in.Close(); out.Close() }
	defer context.AfterFunc(ctx, stop)()
	return both(ctx,
		func() error { return sendDatagrams(ctx, f, out) },
		func() error { return receiveDatagrams(f, in) },
		stop)
}

func sendDatagrams(ctx context.Context, f *flow, conn io.Writer) error {
	source := rand.NewChaCha8(sha256.Sum256([]byte(f.name)))
	r := rand.New(source)
	buf := make([]byte, datagramMax)
	tick := time.NewTicker(datagramBurst * time.Second / datagramRate)
	defer tick.Stop()
	for {
		for range datagramBurst {
			b := buf[:datagramHead+r.IntN(datagramMax-datagramHead+1)]
			source.Read(b[datagramHead:])
			sealDatagram(b, uint64(f.sent.Add(1)))
			conn.Write(b) // one that the kernel refuses is lost
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func sealDatagram(b []byte, number uint64) {
	binary.BigEndian.PutUint64(b[4:], number)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
}

// intact says that a datagram is as it was sealed.
func intact(b []byte) bool {
	return len(b) >= datagramHead && binary.BigEndian.Uint32(b) == crc32.Checksum(b[4:], castagnoli)
}

func receiveDatagrams(f *flow, conn net.PacketConn) error {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if !intact(buf[:n]) {
			return fmt.Errorf("%w: a datagram of %d bytes", errDiffers, n)
		}
		f.checked.Add(1)
		f.good(n)
	}
}
