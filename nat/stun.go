package nat

import (
	"crypto/rand"
	"errors"
	"net/netip"

	"github.com/pion/stun/v3"
)

// transactionID names a request, and its answer.
type transactionID = [stun.TransactionIDSize]byte

func newTransactionID() (id transactionID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// useCandidate is the attribute by which the leader of a round chooses a pair, RFC
// 8445 section 7.1.2.
const useCandidate stun.AttrType = 0x0025

// maxMessage is how long a STUN message may be in bytes; longer ones are dropped.
const maxMessage = 548

var errMessage = errors.New("not a STUN message of use")

// flag is an attribute without a value.
type flag stun.AttrType

func (f flag) AddTo(m *stun.Message) error {
	m.Add(stun.AttrType(f), nil)
	return nil
}

// parse reads a message. It keeps b.
func parse(b []byte) (*stun.Message, error) {
	if len(b) > maxMessage {
		return nil, errMessage
	}
	m := &stun.Message{Raw: b}
	if err := m.Decode(); err != nil {
		return nil, errMessage
	}
	return m, nil
}

// bindingRequest is a request that anybody answers. c: 0, or from where.
func bindingRequest(id transactionID, c change) []byte {
	setters := []stun.Setter{stun.BindingRequest, stun.NewTransactionIDSetter(id)}
	if c != 0 {
		setters = append(setters, c)
	}
	return stun.MustBuild(append(setters, stun.Fingerprint)...).Raw
}

// bindingResponse answers a request that came from an address; key: nil where the
// request had none.
func bindingResponse(id transactionID, from netip.AddrPort, key []byte) ([]byte, error) {
	setters := []stun.Setter{
		stun.NewTransactionIDSetter(id), stun.BindingSuccess,
		stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())},
	}
	if key != nil {
		setters = append(setters, stun.MessageIntegrity(key))
	}
	m, err := stun.Build(append(setters, stun.Fingerprint)...)
	if err != nil {
		return nil, err
	}
	return m.Raw, nil
}

// checkRequest is a request for who has the key, which user names.
func checkRequest(id transactionID, user string, key []byte, nominate bool) ([]byte, error) {
	setters := []stun.Setter{stun.NewTransactionIDSetter(id), stun.BindingRequest, stun.NewUsername(user)}
	if nominate {
		setters = append(setters, flag(useCandidate))
	}
	m, err := stun.Build(append(setters, stun.MessageIntegrity(key), stun.Fingerprint)...)
	if err != nil {
		return nil, err
	}
	return m.Raw, nil
}

// mapped is the address that an answer says the request came from.
func mapped(m *stun.Message) (netip.AddrPort, error) {
	var xor stun.XORMappedAddress
	err := xor.GetFrom(m)
	if err != nil { // servers of RFC 3489 know only the other one
		var plain stun.MappedAddress
		err = plain.GetFrom(m)
		xor.IP, xor.Port = plain.IP, plain.Port
	}
	ip, ok := netip.AddrFromSlice(xor.IP)
	if err != nil || !ok || xor.Port <= 0 || xor.Port > 65535 {
		return netip.AddrPort{}, errMessage
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(xor.Port)), nil
}
