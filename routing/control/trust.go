package control

import (
	"meshd/internal/frame"
	"meshd/internal/identity"
)

// Trust decides who may be a neighbour. Its methods are called in the mesh's
// goroutine: they must not wait for anything. A key is the one that the peer signed
// with; nil: none, as of stock routers and under protocol 1.
type Trust interface {
	// Check says why a peer may not be a neighbour; nil: it may. listed: its key is
	// one that the operator named.
	Check(name frame.PeerName, key *identity.Key) (listed bool, err error)
	// Taken is told of a peer with which there is a session now.
	Taken(name frame.PeerName, nick string, key *identity.Key)
}

// Authentication is how it is known who a neighbour is.
type Authentication string

// The ways, the best one first.
const (
	ByKey      Authentication = "trusted key" // it holds a key that the operator named
	ByPassword Authentication = "password"    // it knows the mesh's password
	ByNothing  Authentication = ""
)

// untrustedError is why a session ends whose peer is not trusted any more.
type untrustedError struct{ err error }

func (e *untrustedError) Error() string { return "not trusted: " + e.err.Error() }
func (e *untrustedError) Unwrap() error { return e.err }

// judge asks whether the neighbour may be one, and notes how it is authenticated.
func (m *Mesh) judge(s *session) error {
	s.auth = ByNothing
	if s.conn.Proved {
		s.auth = ByPassword
	}
	if m.cfg.Trust == nil {
		return nil
	}
	listed, err := m.cfg.Trust.Check(s.peer.Name, s.conn.PeerKey)
	if err != nil {
		return &untrustedError{err}
	}
	if listed {
		s.auth = ByKey
	}
	return nil
}

// judgeAll ends the sessions with peers that are not trusted any more. Those that
// are stay, and their paths are authenticated as they were.
func (m *Mesh) judgeAll() {
	if m.cfg.Trust == nil {
		return
	}
	for s := range m.sessions {
		auth := s.auth
		if err := m.judge(s); err != nil {
			m.endSession(s, err)
			continue
		}
		s.auth = auth
	}
}

// sleeveKey is transport.Session.Key: nil where frames over sleeve are plain.
func (s *session) sleeveKey() (*[32]byte, error) {
	switch {
	case s.trusted && s.conn.Features.Trusted:
		return nil, nil
	case s.conn.Key == nil && s.conn.exporter != nil && s.secret != nil:
		return sleeveKey(s.secret)
	}
	return s.conn.Key, nil
}

// authenticated is transport.Session.Authenticated.
func (s *session) authenticated() bool { return s.auth != ByNothing }
