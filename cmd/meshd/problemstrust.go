package main

import (
	"net/netip"
	"strings"
)

// wantedPasswordBits is what weave's documentation asks for.
const wantedPasswordBits = 50

func (f *findings) encryption(s *Status, c ConfigReport) {
	if !s.PasswordSet && len(s.Trust.Keys) == 0 {
		f.noPassword(s)
		return
	}
	if c.PasswordBits > 0 && c.PasswordBits < wantedPasswordBits {
		f.add(Warning, "weak-password", "the password is weak (at most %.0f bits, %d are wanted): one message of the handshake suffices to guess it offline",
			c.PasswordBits, wantedPasswordBits)
	}
	for i := range s.Connections {
		c := &s.Connections[i]
		switch p := c.activePath(); {
		case p == nil:
		case !p.Encrypted && !s.PasswordSet:
			f.add(Warning, "unencrypted", "UNENCRYPTED: frames to %s(%s) can be read and forged on the way: over %s only a password (password_file) encrypts",
				c.Name, c.NickName, p.Transport)
		case !p.Encrypted:
			f.add(Note, "plain-path", "frames to %s(%s) are not encrypted: both ends trust each other's subnet", c.Name, c.NickName)
		case !p.Authenticated:
			f.add(Warning, "unauthenticated-path", "UNAUTHENTICATED: frames to %s(%s) are encrypted, but it proved neither that it knows the password nor a key of trust.keys",
				c.Name, c.NickName)
		}
	}
}

// noPassword says how far the frames of an open mesh are safe.
func (f *findings) noPassword(s *Status) {
	const join = "neither a password (password_file) nor trust.keys is set, so anyone who reaches the control port may join"
	var plain []string
	encrypted := 0
	for i := range s.Connections {
		c := &s.Connections[i]
		switch p := c.activePath(); {
		case p == nil:
		case p.Encrypted:
			encrypted++
		default:
			plain = append(plain, c.Name+"("+c.NickName+")")
		}
	}
	switch {
	case encrypted == 0 && len(plain) == 0:
		f.add(Warning, "no-password", "UNAUTHENTICATED: "+join)
	case encrypted == 0:
		f.add(Warning, "unencrypted", "UNENCRYPTED: "+join+", and frames can be read on the way")
	case len(plain) == 0:
		f.add(Warning, "unauthenticated", "UNAUTHENTICATED: "+join+" or stand in between; frames are encrypted")
	default:
		f.add(Warning, "unencrypted", "UNENCRYPTED: "+join+", and frames to %s can be read on the way; to %s they are encrypted",
			strings.Join(plain, ", "), count(encrypted, "other neighbour"))
	}
}

func (f *findings) exposure(c ConfigReport) {
	if c.HTTP != "" && !loopback(c.HTTP) {
		f.add(Warning, "open-api", "weave's HTTP API listens on %s, beyond loopback: whoever reaches it can read and change the mesh", c.HTTP)
	}
}

// loopback reports whether a listening address cannot be reached from other
// hosts.
func loopback(address string) bool {
	if strings.HasPrefix(address, "localhost:") {
		return true
	}
	ap, err := netip.ParseAddrPort(address)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
