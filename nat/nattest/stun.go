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
// its NAT maps.
type STUN struct {
	sockets  []mux.Socket
	requests atomic.Uint64
}

// NewSTUN returns a server on sockets in memory or of the system, which it owns.
func NewSTUN(sockets ...mux.Socket) *STUN { return &STUN{sockets: sockets} }

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
			answer := s.answer(m)
			if answer == nil {
				continue
			}
			// What cannot be sent is lost, as any datagram may be.
			_, _ = socket.WriteBatch([]udp.Message{{Buf: answer, N: len(answer), Addr: m.Addr}}, false)
		}
	}
}

// answer is what a request is answered with; nil: it is none, or not for us.
func (s *STUN) answer(m udp.Message) []byte {
	if m.Segment > 0 || !stun.IsMessage(m.Buf[:m.N]) {
		return nil
	}
	request := stun.New()
	if err := stun.Decode(m.Buf[:m.N], request); err != nil || request.Type != stun.BindingRequest {
		return nil
	}
	with := []stun.Setter{stun.NewTransactionIDSetter(request.TransactionID)}
	// RFC 8489, section 6.3.1: attributes that a server has to understand.
	if unknown := mustUnderstand(request); len(unknown) > 0 {
		with = append(with, stun.BindingError, stun.CodeUnknownAttribute, unknown)
	} else {
		with = append(with, stun.BindingSuccess,
			&stun.XORMappedAddress{IP: m.Addr.Addr().AsSlice(), Port: int(m.Addr.Port())})
	}
	if request.Contains(stun.AttrFingerprint) {
		if stun.Fingerprint.Check(request) != nil {
			return nil
		}
		with = append(with, stun.Fingerprint)
	}
	response, err := stun.Build(with...)
	if err != nil {
		return nil
	}
	s.requests.Add(1)
	return response.Raw
}

// mustUnderstand lists the attributes that a server has to refuse if it does not
// know them, as this one does: CHANGE-REQUEST for example. It knows those of
// authentication, which it does not ask for.
func mustUnderstand(m *stun.Message) (out stun.UnknownAttributes) {
	for _, a := range m.Attributes {
		switch a.Type {
		case stun.AttrUsername, stun.AttrMessageIntegrity, stun.AttrMessageIntegritySHA256:
		default:
			if a.Type.Required() {
				out = append(out, a.Type)
			}
		}
	}
	return out
}
