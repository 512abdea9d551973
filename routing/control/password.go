package control

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/crypto/argon2"
)

// What makes the mesh key of a password costs, so that a guess costs it too:
// argon2id as RFC 9106 has it, with the second recommendation of OWASP's Password
// Storage Cheat Sheet. The salt is a label, since all hosts must come to one key.
const (
	meshKeySalt    = "meshd mesh key v1"
	meshKeyTime    = 2
	meshKeyMemory  = 19 << 10 // KiB
	meshKeyThreads = 1
)

// Password is a password of the mesh, with the mesh key that is made of it once,
// when it is needed first. The zero Password is none.
type Password struct {
	text []byte
	key  func() *[keyLen]byte
}

// NewPassword makes a password; an empty text is none. The text is not copied.
func NewPassword(text []byte) Password {
	if len(text) == 0 {
		return Password{}
	}
	return Password{text, sync.OnceValue(func() *[keyLen]byte {
		return (*[keyLen]byte)(argon2.IDKey(text, []byte(meshKeySalt), meshKeyTime, meshKeyMemory, meshKeyThreads, keyLen))
	})}
}

// Passwords makes the passwords that a mesh accepts, the one to dial with first;
// empty texts are left out.
func Passwords(texts ...[]byte) (out []Password) {
	for _, text := range texts {
		if p := NewPassword(text); p.key != nil {
			out = append(out, p)
		}
	}
	return out
}

// MeshKey is the mesh key. The first call takes a while.
func (p Password) MeshKey() *[keyLen]byte { return p.key() }

// maxWorked bounds worked.
const maxWorked = 1024

// worked are the addresses that were dialled with a password other than the first
// one, with its index: so that during a rotation not every dial fails once. Owned
// by the mesh's goroutine.
type worked map[netip.AddrPort]int

// order puts the password that worked at addr first.
func (w worked) order(all []Password, addr netip.AddrPort) []Password {
	i := w[addr]
	if i <= 0 || i >= len(all) {
		return all
	}
	return append([]Password{all[i]}, slices.Delete(slices.Clone(all), i, i+1)...)
}

// next notes that the password in use at addr was refused and says whether there
// is another one.
func (w worked) next(all []Password, addr netip.AddrPort) bool {
	if len(all) < 2 {
		return false
	}
	if len(w) >= maxWorked {
		clear(w)
	}
	w[addr] = (w[addr] + 1) % len(all)
	return true
}

// another reports whether an attempt at addr, which ended with err, is to be
// repeated at once with another password. tries is how many attempts there were.
func (m *Mesh) another(addr netip.AddrPort, err error, tries int) (again bool) {
	if !passwordRefused(err) {
		return false
	}
	m.do(func() { again = m.worked.next(m.set.Passwords, addr) && tries < len(m.set.Passwords) })
	return again
}

// passwordRefused reports whether a handshake of ours, which had a password, may
// have failed because the other end has another one.
func passwordRefused(err error) bool {
	return errors.Is(err, ErrWrongPassword) || errors.Is(err, errMayDiffer)
}

// closedByPeer reports whether the other end closed the connection.
func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
