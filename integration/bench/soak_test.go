package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"meshd/internal/lab/peer"
)

func TestGrowth(t *testing.T) {
	idle := []peer.Usage{{Goroutines: 20, Heap: 1 << 20, RSS: 10 << 20}}
	warm := []peer.Usage{{Goroutines: 30, Heap: 4 << 20, RSS: 20 << 20}}
	for _, tt := range []struct {
		name string
		now  peer.Usage
		want string
	}{
		{"nothing", peer.Usage{Goroutines: 20, Heap: 4 << 20, RSS: 20 << 20}, ""},
		{"as much as may be", peer.Usage{Goroutines: 25, Heap: 12 << 20, RSS: 36 << 20}, ""},
		{"goroutines", peer.Usage{Goroutines: 26}, "goroutines"},
		{"heap", peer.Usage{Heap: 13 << 20}, "heap"},
		{"RSS", peer.Usage{RSS: 37 << 20}, "RSS"},
	} {
		got := strings.Join(growth(idle, warm, []peer.Usage{tt.now}), "; ")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: growth = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestChecksumErrors(t *testing.T) {
	const table = "Ip: Forwarding InHdrErrors\nIp: 1 9\n" +
		"Tcp: InSegs InErrs InCsumErrors\nTcp: 5 1 2\n" +
		"Udp: InDatagrams NoPorts InErrors OutDatagrams InCsumErrors\nUdp: 1 2 3 4 5\n"
	if got := checksumErrors(table); got != 7 {
		t.Errorf("checksumErrors = %d, want 7", got)
	}
	if got := checksumErrors("Tcp: InCsumErrors\n"); got != 0 {
		t.Errorf("without values = %d", got)
	}
}

// bender changes one byte of what passes, at an offset.
type bender struct {
	net.Conn
	at, seen int
}

func (b *bender) Write(p []byte) (int, error) {
	if i := b.at - b.seen; i >= 0 && i < len(p) {
		p = append([]byte(nil), p...)
		p[i] ^= 1
	}
	n, err := b.Conn.Write(p)
	b.seen += n
	return n, err
}

// carryFiles sends files over a pipe until stop says that it is enough, or a
// fault is found.
func carryFiles(t *testing.T, bend int, enough func(f *flow) bool) (*flow, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := &flow{name: "files"}
	a, b := net.Pipe()
	closeAll := func() { a.Close(); b.Close() }
	go func() { // ends with the test at the latest
		for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
			if enough(f) {
				cancel()
			}
		}
		closeAll()
	}()
	err := both(ctx,
		func() error { return sendFiles(ctx, f, &bender{Conn: a, at: bend}) },
		func() error { return receiveFiles(f, b) }, closeAll)
	return f, err
}

func TestFiles(t *testing.T) {
	f, err := carryFiles(t, -1, func(f *flow) bool { return f.checked.Load() >= 2 })
	if errors.Is(err, errDiffers) || f.checked.Load() < 2 || f.bytes.Load() == 0 {
		t.Errorf("%v, %v", f, err)
	}
}

func TestFilesDiffer(t *testing.T) {
	// One byte of the first file's content, or of its announced length.
	for _, at := range []int{fileHead, 0} {
		if f, err := carryFiles(t, at, func(*flow) bool { return false }); !errors.Is(err, errDiffers) {
			t.Errorf("byte %d was changed: %v, %v; want %v", at, f, err, errDiffers)
		}
	}
}

func TestPattern(t *testing.T) {
	block := []byte("one two three four")
	good := strings.Repeat(string(block), 3)
	for _, tt := range []struct {
		name, in string
		fault    error
		checked  int64
	}{
		{"three times", good, io.EOF, 3},
		{"changed", strings.Replace(good, "three fourone", "three fouRone", 1), errDiffers, 0},
		{"a byte is missing", good[:20] + good[21:], errDiffers, 1},
		{"a byte twice", good[:20] + good[19:], errDiffers, 1},
	} {
		f := &flow{}
		if err := comparePattern(f, strings.NewReader(tt.in), block); !errors.Is(err, tt.fault) || f.checked.Load() != tt.checked {
			t.Errorf("%s: %v, %d checked; want %v, %d", tt.name, err, f.checked.Load(), tt.fault, tt.checked)
		}
	}
}

func TestDatagram(t *testing.T) {
	b := make([]byte, 100)
	sealDatagram(b, 7)
	if !intact(b) {
		t.Error("a datagram as it was sealed is not intact")
	}
	for i := range b {
		b[i] ^= 0x10
		if intact(b) {
			t.Errorf("byte %d was changed, and the datagram is intact", i)
		}
		b[i] ^= 0x10
	}
	for _, cut := range [][]byte{nil, b[:datagramHead-1], b[:99], append(b, 0)} {
		if intact(cut) {
			t.Errorf("%d of 100 bytes are intact", len(cut))
		}
	}
}

func TestIdleFlow(t *testing.T) {
	f := newFlow("x", make([]end, 2), nil)
	if got := f.idle(time.Now()); got > time.Minute {
		t.Errorf("a new flow stands still for %v", got)
	}
	if got := f.idle(time.Now().Add(time.Hour)); got < time.Hour {
		t.Errorf("an hour later it stands still for %v", got)
	}
	f.good(sha256.Size)
	if f.bytes.Load() != sha256.Size {
		t.Errorf("%d bytes", f.bytes.Load())
	}
}
