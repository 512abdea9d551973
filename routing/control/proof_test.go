package control

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/argon2"
)

// TestTwoPasswords tries all that a rotation meets, on all three introductions.
func TestTwoPasswords(t *testing.T) {
	o, n := []byte("old"), []byte("new")
	old, young, oldNew, newOld := Passwords(o), Passwords(n), Passwords(o, n), Passwords(n, o)
	for _, kind := range []struct {
		name   string
		secure bool
		max    byte
	}{{"version 1", false, 1}, {"version 2", false, 2}, {"secure", true, 2}} {
		for _, tt := range []struct {
			name              string
			dialler, acceptor []Password
			ok                bool
		}{
			{"old to old", old, old, true},
			{"old to new, old", old, newOld, true},
			{"old to old, new", old, oldNew, true},
			{"new to new, old", young, newOld, true},
			{"new, old to new", newOld, young, true},
			{"new, old to new, old", newOld, newOld, true},
			{"new, old to old", newOld, old, false},
			{"new, old to old, new", newOld, oldNew, true},
			{"other to new, old", Passwords([]byte("x")), newOld, false},
		} {
			t.Run(kind.name+"/"+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := plainPipe()
					var x, y net.Conn = a, b
					if kind.secure {
						x, y = secureConn{a}, secureConn{b}
					}
					dialler := HandshakeConfig{MaxVersion: kind.max, Passwords: tt.dialler, Features: featuresOf(1)}
					acceptor := HandshakeConfig{Passwords: tt.acceptor, Features: featuresOf(2)}
					checkRotation(t, x, y, dialler, acceptor, tt.ok, kind.max == 1)
				})
			})
		}
	}
}

// checkRotation shakes hands; each end sends its first message as soon as it may.
func checkRotation(t *testing.T, x, y net.Conn, dialler, acceptor HandshakeConfig, ok, late bool) {
	t.Helper()
	dialler.Dialled = true
	end := func(conn net.Conn, cfg HandshakeConfig) (*Conn, error) {
		c, err := Handshake(t.Context(), conn, cfg)
		if err == nil {
			err = c.WriteMessage(TagGossip, []byte("topology"))
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		for {
			tag, body, err := c.ReadMessage()
			if err != nil {
				conn.Close()
				return nil, err
			}
			if tag == TagGossip && string(body) == "topology" {
				return c, nil
			}
		}
	}
	type result struct {
		c   *Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := end(y, acceptor)
		done <- result{c, err}
	}()
	c, err := end(x, dialler)
	other := <-done
	if !ok {
		if err == nil || other.err == nil {
			t.Fatalf("dialler %v, acceptor %v, want errors", err, other.err)
		}
		if !late && (!passwordRefused(err) || !passwordRefused(other.err)) {
			t.Errorf("dialler %v, acceptor %v, want words on the password", err, other.err)
		}
		if late && len(dialler.Passwords) > 1 && !passwordRefused(err) {
			t.Errorf("dialler %v, want a word on the password: it has another to try", err)
		}
		return
	}
	if err := errors.Join(err, other.err); err != nil {
		t.Fatal(err)
	}
	if !c.Proved || !other.c.Proved || !c.Encrypted {
		t.Error("the password is not proved")
	}
	talk(t, c, other.c)
	talk(t, other.c, c)
}

func TestProofMismatches(t *testing.T) {
	one := Passwords([]byte("alpha"))
	for _, tt := range []struct {
		dialler, acceptor []Password
		ours              [2]bool
	}{{one, nil, [2]bool{true, false}}, {nil, one, [2]bool{false, true}}} {
		a, b := plainPipe()
		_, errs := shakeEnds(t.Context(), secureConn{a}, secureConn{b},
			HandshakeConfig{Passwords: tt.dialler, Features: featuresOf(1)}, HandshakeConfig{Passwords: tt.acceptor, Features: featuresOf(2)})
		for i, err := range errs {
			if m, ok := errors.AsType[*PasswordMismatch](err); !ok || m.Ours != tt.ours[i] {
				t.Errorf("end %d: %v, want a *PasswordMismatch, ours: %v", i, err, tt.ours[i])
			}
		}
	}
}

func TestSecureStreamsRefuse(t *testing.T) {
	for name, tt := range map[string]struct {
		in   string
		want error
	}{
		"version 1":          {"weave\x01\x01", ErrVersion},
		"weave's encryption": {"weave\x01\x02\x01" + string(make([]byte, 32)), ErrNotWeave},
	} {
		script := struct {
			*scriptConn
			exporting
		}{scriptConn: newScriptConn([]byte(tt.in))}
		if _, err := Handshake(t.Context(), script, HandshakeConfig{Features: featuresOf(2)}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

type exporting struct{}

func (exporting) ExportKeyingMaterial(_ string, _ []byte, n int) ([]byte, error) {
	return make([]byte, n), nil
}

// TestRefusalTellsNothing: a dialler that does not know the password gets no
// message that it could test guesses on.
func TestRefusalTellsNothing(t *testing.T) {
	for _, secure := range []bool{false, true} {
		a, b := plainPipe()
		var x, y net.Conn = a, b
		if secure {
			x, y = secureConn{a}, secureConn{b}
		}
		go func() {
			Handshake(t.Context(), y, HandshakeConfig{Passwords: Passwords([]byte("secret")), Features: featuresOf(2)})
			y.Close()
		}()
		h := handshake{c: newConn(x, true), cfg: HandshakeConfig{Dialled: true, Passwords: Passwords([]byte("guess")), Features: featuresOf(1)}}
		if err := h.run(); err == nil {
			t.Fatal("the guess was right")
		}
		if got := h.c.RemoteFeatures; len(got) > 1 || secure && got[featureProof] != proofRefused {
			t.Errorf("secure %v: the acceptor told %v", secure, got)
		}
	}
}

func TestMeshKey(t *testing.T) {
	want := argon2.IDKey([]byte("alpha"), []byte("meshd mesh key v1"), 2, 19*1024, 1, 32)
	p := NewPassword([]byte("alpha"))
	if got := p.key(); string(got[:]) != string(want) || p.key() != got {
		t.Errorf("mesh key = %x, want %x, once", *got, want)
	}
	if got := Passwords(nil, []byte("a"), []byte{}); len(got) != 1 {
		t.Errorf("%d passwords, want 1", len(got))
	}
	e := []byte("exported")
	if p.proof(e, roleDialler) == p.proof(e, roleAcceptor) || !p.proves(p.proof(e, roleDialler), e, roleDialler) || p.proves(p.proof(e, roleDialler), e, roleAcceptor) {
		t.Error("a proof fits the other role")
	}
}

func TestWorked(t *testing.T) {
	w, all := worked{}, Passwords([]byte("a"), []byte("b"))
	addr := netip.MustParseAddrPort("10.0.0.1:6783")
	first := func() string { return string(w.order(all, addr)[0].text) }
	if first() != "a" || !w.next(all, addr) || first() != "b" || len(w.order(all, addr)) != 2 || !w.next(all, addr) || first() != "a" {
		t.Error("the passwords do not take turns")
	}
	w.next(all, addr)
	if got := w.order(all[:1], addr); len(got) != 1 || string(got[0].text) != "a" || w.next(all[:1], addr) {
		t.Errorf("with one password left: %d", len(got))
	}
}
