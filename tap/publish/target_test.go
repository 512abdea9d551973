package publish

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// fakeTarget is a target to which the first connections fail with errs.
func fakeTarget(errs ...error) (*target, *int) {
	tries := 0
	return &target{
		host:    HostPort{Port: 80},
		resolve: at(netip.MustParseAddrPort("192.0.2.1:80")),
		timeout: 3 * time.Second,
		retry:   5 * time.Second,
		isLocal: func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.9") },
		connect: func(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (net.Conn, error) {
			tries++
			if tries > len(errs) {
				return &net.TCPConn{}, nil
			}
			err := errs[tries-1]
			if err == context.DeadlineExceeded { // no answer
				<-ctx.Done()
				err = ctx.Err()
			}
			return nil, err
		},
	}, &tries
}

func TestDialTriesAgain(t *testing.T) {
	refused := syscall.ECONNREFUSED
	silent := context.DeadlineExceeded
	many := make([]error, 100)
	for i := range many {
		many[i] = refused
	}
	tests := []struct {
		name  string
		errs  []error
		tries int
		took  time.Duration
		words string // of the error, "" for none
	}{
		{"at once", nil, 1, 0, ""},
		{"after a restart", []error{refused, syscall.EHOSTUNREACH, refused}, 4, 700 * time.Millisecond, ""},
		{"never", many, 8, 4500 * time.Millisecond, "nothing listens there: connection refused"},
		{"silence, then an answer", []error{silent}, 2, 3100 * time.Millisecond, ""},
		{"silence", []error{silent, silent, silent}, 2, 6100 * time.Millisecond, "no answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target, tries := fakeTarget(tt.errs...)
				begun := time.Now()
				_, addr, err := target.dial(t.Context())
				took := time.Since(begun)
				if *tries != tt.tries || took != tt.took || (err == nil) != (tt.words == "") {
					t.Errorf("dial = %v after %d tries and %v, want %d and %v, %q", err, *tries, took, tt.tries, tt.took, tt.words)
				}
				if err != nil && !strings.Contains(err.Error(), "dial 192.0.2.1:80: "+tt.words) {
					t.Errorf("dial = %q, want …%s…", err, tt.words)
				}
				if addr.Port() != 80 {
					t.Errorf("dial went to %v", addr)
				}
			})
		})
	}
}

// A loop is not tried again, and an end of the context ends the tries.
func TestDialEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		target, tries := fakeTarget()
		target.resolve = at(netip.MustParseAddrPort("192.0.2.9:80"))
		if _, _, err := target.dial(t.Context()); !errors.Is(err, ErrLoop) || *tries != 0 || time.Since(begun) != 0 {
			t.Errorf("dial = %v after %d tries and %v, want ErrLoop at once", err, *tries, time.Since(begun))
		}
		target, _ = fakeTarget(syscall.ECONNREFUSED, syscall.ECONNREFUSED, syscall.ECONNREFUSED)
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		if _, _, err := target.dial(ctx); err == nil || time.Since(begun) != 150*time.Millisecond {
			t.Errorf("dial = %v after %v, want the end of the context", err, time.Since(begun))
		}
	})
}

func TestFind(t *testing.T) {
	addr := func(s string) netip.AddrPort { a, _ := netip.ParseAddrPort(s); return a }
	tests := []struct {
		addr  netip.AddrPort
		err   error
		words string
	}{
		{addr("192.0.2.1:80"), nil, ""},
		{addr("[::ffff:192.0.2.1]:80"), nil, ""},
		{addr("192.0.2.9:81"), nil, ""},
		{addr("192.0.2.9:80"), nil, "the published port itself"},
		{addr("[::ffff:192.0.2.9]:80"), nil, "the published port itself"},
		{netip.AddrPort{}, nil, "is not an address"},
		{addr("192.0.2.1:0"), nil, "is not an address"},
		{addr("0.0.0.0:80"), nil, "is not an address"},
		{netip.AddrPort{}, errors.New("no container httpd"), "look up the target: no container httpd"},
	}
	for _, tt := range tests {
		target, _ := fakeTarget()
		target.resolve = func(context.Context) (netip.AddrPort, error) { return tt.addr, tt.err }
		got, err := target.find(t.Context())
		if (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) || got.Addr().Is4In6() {
			t.Errorf("find of %v = %v, %v, want %q", tt.addr, got, err, tt.words)
		}
	}
}

func TestDialError(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:80")
	wrap := func(e error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: os.NewSyscallError("connect", e)}
	}
	tests := []struct {
		err   error
		words string
	}{
		{wrap(syscall.ECONNREFUSED), "dial 192.0.2.1:80: nothing listens there: connection refused"},
		{wrap(syscall.EHOSTUNREACH), "dial 192.0.2.1:80: nobody on the overlay has that address: is the container running and attached? no route to host"},
		{wrap(syscall.ENETUNREACH), "does it have an address on the overlay?"},
		{wrap(syscall.EADDRNOTAVAIL), "192.0.2.2 is not an address of this host"},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, "no answer: i/o timeout"},
		{wrap(syscall.EPERM), "dial 192.0.2.1:80: operation not permitted"},
	}
	for _, tt := range tests {
		if got := dialError(netip.MustParseAddr("192.0.2.2"), to, tt.err).Error(); !strings.Contains(got, tt.words) {
			t.Errorf("%v is told as %q, want %q", tt.err, got, tt.words)
		}
	}
}
