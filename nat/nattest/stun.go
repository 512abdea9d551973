package nattest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/pion/stun/v3"

	"meshd/internal/mux"
	"meshd/internal/udp"
)

// STUN's ports: its own, and another one to ask from the same address.
const (
	STUNPort  = 3478
	STUNPort2 = 3479
)

// STUN is a plain STUN server: it answers binding requests (RFC 8489, section
// 2.1) with the address that they came from, without authentication. On two ports
// of two addresses, see Host.ListenAll, it is all that a client needs to learn how
// its NAT maps. One that discovers (RFC 5780) tells by OTHER-ADDRESS of the other
// address and port, and does what CHANGE-REQUEST asks for, of which the plain one
// knows nothing.
type STUN struct {
	sockets  []mux.Socket
	discover bool
	requests atomic.Uint64
}

// NewSTUN returns a server on sockets in memory or of the system, which it owns.
func NewSTUN(sockets ...mux.Socket) *STUN { return &STUN{sockets: sockets} }

// NewDiscoverySTUN returns a server that discovers, on both ports of both addresses.
func NewDiscoverySTUN(sockets ...mux.Socket) *STUN { return &STUN{sockets: sockets, discover: true} }

// Requests is how many binding requests were answered.
func (s *STUN) Requests() uint64 { return s.requests.Load() }

// Run answers until ctx is done, then closes the sockets and returns nil.
func (s *STUN) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(s.sockets))
	var wg sync.WaitGroup
	for i, socket := range s.sockets {
		wg.Go(func() {
			defer cancel() // one socket less is not what was asked for
			defer socket.Close()
			defer context.AfterFunc(ctx, func() { socket.Close() })()
			if errs[i] = s.serve(socket); ctx.Err() != nil && errors.Is(errs[i], net.ErrClosed) {
				errs[i] = nil
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *STUN) serve(socket mux.Socket) error {
	ms := make([]udp.Message, 16)
	for i := range ms {
		ms[i].Buf = make([]byte, 2048) // no datagram that is longer is answered
	}
	for {
		n, err := socket.ReadBatch(ms)
		if err != nil {
			return fmt.Errorf("read STUN socket %v: %w", socket.LocalAddr(), err)
		}
		for _, m := range ms[:n] {
			answer, from := s.answer(m, socket)
			if answer == nil {
				continue
			}
			// What cannot be sent is lost, as any datagram may be.
			_, _ = from.WriteBatch([]udp.Message{{Buf: answer, N: len(answer), Addr: m.Addr}}, false)
		}
	}
}

// answer is what a request is answered with, and from which socket; nil: it is none,
// or not for us.
func (s *STUN) answer(m udp.Message, at mux.Socket) (b []byte, from mux.Socket) {
	if m.Segment > 0 || !stun.IsMessage(m.Buf[:m.N]) {
		return nil, nil
	}
	request := stun.New()
	if err := stun.Decode(m.Buf[:m.N], request); err != nil || request.Type != stun.BindingRequest {
		return nil, nil
	}
	from = s.changed(request, at)
	with := []stun.Setter{stun.NewTransactionIDSetter(request.TransactionID)}
	// RFC 8489, section 6.3.1: attributes that a server has to understand.
	if unknown := s.mustUnderstand(request); len(unknown) > 0 {
		with = append(with, stun.BindingError, stun.CodeUnknownAttribute, unknown)
	} else {
		with = append(with, stun.BindingSuccess,
			&stun.XORMappedAddress{IP: m.Addr.Addr().AsSlice(), Port: int(m.Addr.Port())})
		if other := s.other(at, true, true); other != nil {
			with = append(with, &stun.OtherAddress{IP: other.LocalAddr().Addr().AsSlice(), Port: int(other.LocalAddr().Port())})
		}
	}
	if request.Contains(stun.AttrFingerprint) {
		if stun.Fingerprint.Check(request) != nil {
			return nil, nil
		}
		with = append(with, stun.Fingerprint)
	}
	response, err := stun.Build(with...)
	if err != nil {
		return nil, nil
	}
	s.requests.Add(1)
	return response.Raw, from
}

// changed is the socket that a request at a socket wants its answer from.
func (s *STUN) changed(request *stun.Message, at mux.Socket) mux.Socket {
	v, err := request.Get(stun.AttrChangeRequest)
	if err != nil || len(v) != 4 {
		return at
	}
	if other := s.other(at, v[3]&4 != 0, v[3]&2 != 0); other != nil {
		return other
	}
	return at
}

// other is the socket of the same family with another address, another port, or both;
// nil: there is none, or the server does not discover.
func (s *STUN) other(at mux.Socket, address, port bool) mux.Socket {
	for _, o := range s.sockets {
		x, y := o.LocalAddr(), at.LocalAddr()
		if s.discover && x.Addr().Is4() == y.Addr().Is4() && (x.Addr() != y.Addr()) == address && (x.Port() != y.Port()) == port {
			return o
		}
	}
	return nil
}

// mustUnderstand lists the attributes that a server has to refuse if it does not
// know them. It knows those of authentication, which it does not ask for.
func (s *STUN) mustUnderstand(m *stun.Message) (out stun.UnknownAttributes) {
	for _, a := range m.Attributes {
		switch a.Type {
		case stun.AttrUsername, stun.AttrMessageIntegrity, stun.AttrMessageIntegritySHA256:
		default:
			if a.Type.Required() && !(s.discover && a.Type == stun.AttrChangeRequest) {
				out = append(out, a.Type)
			}
		}
	}
	return out
}
