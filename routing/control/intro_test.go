package control

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// featuresOf are what a peer in these tests says of itself.
func featuresOf(i int) func(version int) map[string]string {
	return Features{
		Name: 0x020000000000 + 1, NickName: fmt.Sprint("host", i), UID: uint64(100 + i), ConnID: uint64(1)<<63 + uint64(i),
		ShortID: uint16(i), HasShortID: true, Overlays: []string{"sleeve"}, HasOverlays: true,
		Native: true, Abilities: []string{AbilityProbe, AbilityLeave},
	}.FeatureMap
}

// shakeBoth runs both ends of a handshake.
func shakeBoth(ctx context.Context, a, b net.Conn, dialler, acceptor HandshakeConfig) (conns [2]*Conn, errs [2]error) {
	dialler.Dialled = true
	dialler.Features, acceptor.Features = featuresOf(1), featuresOf(2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conns[1], errs[1] = Handshake(ctx, b, acceptor); errs[1] != nil {
			b.Close()
		}
	}()
	if conns[0], errs[0] = Handshake(ctx, a, dialler); errs[0] != nil {
		a.Close()
	}
	<-done
	return conns, errs
}

// TestCapturedHandshakes plays each end of every captured connection against the
// bytes that came from the other end, then reads all that followed.
func TestCapturedHandshakes(t *testing.T) {
	for name, c := range capturedConns(t) {
		for _, dialler := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/dialler=%v", name, dialler), func(t *testing.T) {
				playCaptured(t, c, dialler)
			})
		}
	}
}

func playCaptured(t *testing.T, c capturedConn, dialler bool) {
	cfg, incoming := c.config(t, dialler)
	var theirs []capturedMessage
	for _, m := range c.Messages {
		if m.dialler() != dialler {
			theirs = append(theirs, m)
		}
	}
	_, features, _ := c.end(t, dialler)
	if features == nil { // wrong passwords: only the other end's features are known
		cfg.Features = featuresOf(9)
	}
	script := newScriptConn(incoming)
	conn, err := Handshake(t.Context(), script, cfg)
	if len(theirs) == 0 {
		if !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "passwords may differ") {
			t.Errorf("Handshake = %v, want the end of the stream and what it may mean", err)
		}
		return
	}
	if theirs[0].DecryptFailed {
		if !errors.Is(err, ErrWrongPassword) {
			t.Errorf("Handshake = %v, want %v", err, ErrWrongPassword)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if conn.Version != c.Version || conn.Encrypted != (c.Crypto != nil) || conn.Dialled != dialler {
		t.Errorf("version %d, encrypted %v, dialled %v", conn.Version, conn.Encrypted, conn.Dialled)
	}
	if features != nil && conn.UID != c.UID {
		t.Errorf("connection UID = %d, want %d", conn.UID, c.UID)
	}
	if c.Crypto != nil && !bytes.Equal(conn.Key[:], c.Crypto.SessionKey) {
		t.Errorf("session key = %x, want %x", *conn.Key, c.Crypto.SessionKey)
	}
	if !maps.Equal(conn.RemoteFeatures, theirs[0].Features) {
		t.Errorf("features = %v, want %v", conn.RemoteFeatures, theirs[0].Features)
	}
	checkIntroBytes(t, c, dialler, script.out.Bytes())
	for _, m := range theirs[1:] {
		tag, body, err := conn.ReadMessage()
		if err != nil || tag != m.Tag {
			t.Fatalf("ReadMessage = %d, %x, %v, want tag %d", tag, body, err, m.Tag)
		}
	}
	if _, _, err := conn.ReadMessage(); !errors.Is(err, io.EOF) {
		t.Errorf("ReadMessage at the end = %v, want %v", err, io.EOF)
	}
}

// checkIntroBytes checks what we sent up to the features.
func checkIntroBytes(t *testing.T, c capturedConn, dialler bool, sent []byte) {
	t.Helper()
	want := []byte("weave\x01")
	want = append(want, byte(c.Version)) // the captured end's highest may be above what was agreed
	if c.Version == 2 && c.Crypto == nil {
		want = append(want, 0)
	} else if c.Version == 2 {
		public := c.Crypto.ClientPublic
		if !dialler {
			public = c.Crypto.ServerPublic
		}
		want = append(append(want, 1), public...)
	} else {
		want = append(want, featureTypeDef...)
	}
	if !bytes.HasPrefix(sent, want) {
		t.Errorf("sent %x…, want %x", sent[:min(len(sent), len(want))], want)
	}
}

func TestHandshake(t *testing.T) {
	password := []byte("correct-horse")
	tests := []struct {
		name              string
		dialler, acceptor HandshakeConfig
		version           int
	}{
		{"version 2", HandshakeConfig{}, HandshakeConfig{}, 2},
		{"version 2, password", HandshakeConfig{Passwords: Passwords(password)}, HandshakeConfig{Passwords: Passwords(password)}, 2},
		{"version 1 by the dialler", HandshakeConfig{MaxVersion: 1}, HandshakeConfig{}, 1},
		{"version 1 by the acceptor", HandshakeConfig{}, HandshakeConfig{MaxVersion: 1}, 1},
		{"version 1, password", HandshakeConfig{MaxVersion: 1, Passwords: Passwords(password)}, HandshakeConfig{Passwords: Passwords(password)}, 1},
		{"version 2 demanded", HandshakeConfig{MinVersion: 2}, HandshakeConfig{MinVersion: 2}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				conns, errs := shakeBoth(t.Context(), a, b, tt.dialler, tt.acceptor)
				if err := errors.Join(errs[:]...); err != nil {
					t.Fatal(err)
				}
				checkPair(t, conns, tt.version, tt.dialler.Passwords != nil)
				time.Sleep(time.Hour) // of the bubble: no deadline is left behind
				talk(t, conns[0], conns[1])
				talk(t, conns[1], conns[0])
			})
		})
	}
}

// checkPair checks what both ends know after a handshake.
func checkPair(t *testing.T, conns [2]*Conn, version int, encrypted bool) {
	t.Helper()
	for i, c := range conns {
		if c.Version != version || c.Encrypted != encrypted || (c.Key != nil) != encrypted || c.Dialled != (i == 0) {
			t.Errorf("end %d: version %d, encrypted %v, key %v, dialled %v", i, c.Version, c.Encrypted, c.Key, c.Dialled)
		}
		if want := uint64(1 ^ 2); c.UID != want {
			t.Errorf("end %d: connection UID = %d, want %d", i, c.UID, want)
		}
		if want := fmt.Sprint("host", 2-i); c.Features.NickName != want || c.Features.Native != (version == 2) {
			t.Errorf("end %d: features %+v, want those of %s", i, c.Features, want)
		}
		if !maps.Equal(c.LocalFeatures, conns[1-i].RemoteFeatures) {
			t.Errorf("end %d sent %v, the other got %v", i, c.LocalFeatures, conns[1-i].RemoteFeatures)
		}
	}
	if encrypted && *conns[0].Key != *conns[1].Key {
		t.Error("session keys differ")
	}
}

// talk sends two messages.
func talk(t *testing.T, from, to *Conn) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		sent <- from.WriteMessages([]Message{{Tag: TagHeartbeat}, {Tag: TagOverlay, Body: []byte{0, 3, 5, 0x9e}}})
	}()
	for _, want := range []Message{{Tag: TagHeartbeat}, {Tag: TagOverlay, Body: []byte{0, 3, 5, 0x9e}}} {
		if tag, body, err := to.ReadMessage(); err != nil || tag != want.Tag || !bytes.Equal(body, want.Body) {
			t.Fatalf("ReadMessage = %d, %x, %v, want %+v", tag, body, err, want)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestHandshakeOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	cfg := HandshakeConfig{Passwords: Passwords([]byte("p"))}
	conns, errs := shakeBoth(t.Context(), a, b, cfg, cfg)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	checkPair(t, conns, 2, true)
	large := bytes.Repeat([]byte("0123456789abcdef"), (maxMessage-64)/16)
	go conns[0].WriteMessage(TagGossip, large)
	if tag, body, err := conns[1].ReadMessage(); err != nil || tag != TagGossip || !bytes.Equal(body, large) {
		t.Errorf("ReadMessage = %d, %d bytes, %v, want %d bytes", tag, len(body), err, len(large))
	}
	if err := conns[0].Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := conns[1].ReadMessage(); err == nil {
		t.Error("ReadMessage on a closed connection gave no error")
	}
}

func TestHandshakeMismatches(t *testing.T) {
	p, q := []byte("alpha"), []byte("beta")
	isMismatch := func(ours bool) func(error) bool {
		return func(err error) bool {
			m, ok := errors.AsType[*PasswordMismatch](err)
			return ok && m.Ours == ours
		}
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, tt := range []struct {
		name              string
		dialler, acceptor HandshakeConfig
		wantDialler       func(error) bool
		wantAcceptor      func(error) bool
	}{
		{"password at the dialler only", HandshakeConfig{Passwords: Passwords(p)}, HandshakeConfig{}, isMismatch(true), isMismatch(false)},
		{"password at the acceptor only", HandshakeConfig{}, HandshakeConfig{Passwords: Passwords(p)}, isMismatch(false), isMismatch(true)},
		{"version 1, password at one end", HandshakeConfig{MaxVersion: 1, Passwords: Passwords(p)}, HandshakeConfig{}, isMismatch(true), isMismatch(false)},
		{"passwords differ", HandshakeConfig{Passwords: Passwords(p)}, HandshakeConfig{Passwords: Passwords(q)}, is(errMayDiffer), is(ErrWrongPassword)},
		{"versions apart", HandshakeConfig{MaxVersion: 1}, HandshakeConfig{MinVersion: 2}, is(ErrVersion), is(ErrVersion)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				conns, errs := shakeBoth(t.Context(), a, b, tt.dialler, tt.acceptor)
				if conns[0] != nil || conns[1] != nil {
					t.Error("Handshake gave a connection along with the error")
				}
				if !tt.wantDialler(errs[0]) {
					t.Errorf("dialler: %v", errs[0])
				}
				if !tt.wantAcceptor(errs[1]) {
					t.Errorf("acceptor: %v", errs[1])
				}
			})
		})
	}
}

// TestWrongPasswordV1 shows only with the first message, since version 1 does
// not seal its features.
func TestWrongPasswordV1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		conns, errs := shakeBoth(t.Context(), a, b,
			HandshakeConfig{MaxVersion: 1, Passwords: Passwords([]byte("alpha"))}, HandshakeConfig{Passwords: Passwords([]byte("beta"))})
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		go conns[0].WriteMessage(TagHeartbeat, nil)
		if _, _, err := conns[1].ReadMessage(); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("ReadMessage = %v, want %v", err, ErrWrongPassword)
		}
	})
}

func TestPasswordMismatchSaysWhatToDo(t *testing.T) {
	for _, ours := range []bool{true, false} {
		text := (&PasswordMismatch{Ours: ours}).Error()
		for _, word := range []string{"we have", "the peer has", "set the same on both"} {
			if !strings.Contains(text, word) {
				t.Errorf("%q does not say %q", text, word)
			}
		}
	}
}

// framed frames a plain message of version 2.
func framed(b []byte) []byte {
	return append([]byte{byte(len(b) >> 24), byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...)
}

// TestHandshakeRefusesBytes gives an acceptor what no router sends.
func TestHandshakeRefusesBytes(t *testing.T) {
	header2, header1 := "weave\x01\x02", "weave\x01\x01"
	gobOf := func(change func(map[string]string)) string {
		m := validFeatures()
		change(m)
		return string(appendFeatureGob(nil, m))
	}
	features := gobOf(func(map[string]string) {})
	feature := func(key, value string) string {
		return gobOf(func(m map[string]string) { m[key] = value })
	}
	password := []byte("secret")
	tests := []struct {
		name     string
		password []byte
		in       string
		want     error
	}{
		{"nothing", nil, "", io.EOF},
		{"half a header", nil, "weav", io.ErrUnexpectedEOF},
		{"another protocol", nil, "GET / HTTP/1.1\r\n", ErrNotWeave},
		{"TLS", nil, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", ErrNotWeave},
		{"old release", nil, "weave\x0c\x11", ErrVersion},
		{"header only", nil, header2, io.EOF},
		{"password flag 2", nil, header2 + "\x02", ErrNotWeave},
		{"half a key", password, header2 + "\x01" + strings.Repeat("k", 31), io.ErrUnexpectedEOF},
		{"no key", password, header2 + "\x01", io.ErrUnexpectedEOF},
		{"no features", nil, header2 + "\x00", io.EOF},
		{"half a length", nil, header2 + "\x00" + "\x00\x00", io.ErrUnexpectedEOF},
		{"features longer than 64 KiB", nil, header2 + "\x00" + "\x00\x01\x00\x01", ErrMessageTooLong},
		{"empty features", nil, header2 + "\x00" + string(framed(nil)), ErrFeatures},
		{"garbage features", nil, header2 + "\x00" + string(framed([]byte("garbage"))), ErrFeatures},
		{"features cut", nil, header2 + "\x00" + string(framed([]byte(features[:50]))), ErrFeatures},
		{"features and more", nil, header2 + "\x00" + string(framed([]byte(features+"\x00"))), ErrFeatures},
		{"hash names", nil, header2 + "\x00" + string(framed([]byte(feature("PeerNameFlavour", "hash")))), ErrFeatures},
		{"zero name", nil, header2 + "\x00" + string(framed([]byte(feature("Name", "00:00:00:00:00:00")))), ErrFeatures},
		{"short ID of 13 bits", nil, header2 + "\x00" + string(framed([]byte(feature("ShortID", "4096")))), ErrFeatures},
		{"plain features for sealed", password, header2 + "\x01" + strings.Repeat("k", 32) + string(framed([]byte(features))), ErrWrongPassword},
		{"version 1, no features", nil, header1, io.EOF},
		{"version 1, empty message", nil, header1 + "\x00", ErrFeatures},
		{"version 1, string", nil, header1 + "\x04\x0c\x00\x01a", ErrFeatures},
		{"version 1, larger than 64 KiB", nil, header1 + "\xfd\x01\x00\x01", ErrMessageTooLong},
		{"version 1, 8 EiB", nil, header1 + "\xf8\x7f\xff\xff\xff\xff\xff\xff\xff", ErrMessageTooLong},
		{"version 1, number of 9 bytes", nil, header1 + "\xf7", errGobUint},
		{"version 1, cut", nil, header1 + features[:60], io.ErrUnexpectedEOF},
		{"version 1, definitions without end", nil, header1 + strings.Repeat(string(featureTypeDef), 5000), ErrMessageTooLong},
		{"version 1, key of 31 bytes", password, header1 + feature("PublicKey", strings.Repeat("a", 62)), ErrFeatures},
		{"version 1, key not hex", password, header1 + feature("PublicKey", strings.Repeat("x", 64)), ErrFeatures},
		{"version 1, zero key", password, header1 + feature("PublicKey", strings.Repeat("0", 64)), ErrLowOrder},
	}
	for _, key := range lowOrderKeys {
		tests = append(tests, struct {
			name     string
			password []byte
			in       string
			want     error
		}{"low order key " + hex.EncodeToString(key[:2]), password, header2 + "\x01" + string(key), ErrLowOrder})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Handshake(t.Context(), newScriptConn([]byte(tt.in)), HandshakeConfig{Passwords: Passwords(tt.password), Features: featuresOf(2)})
			if c != nil || !errors.Is(err, tt.want) {
				t.Errorf("Handshake = %v, %v, want %v", c, err, tt.want)
			}
		})
	}
}

// TestOwnFeaturesAreChecked before anything of them is sent.
func TestOwnFeaturesAreChecked(t *testing.T) {
	script := newScriptConn([]byte("weave\x01\x02\x00"))
	_, err := Handshake(t.Context(), script, HandshakeConfig{Features: func(int) map[string]string { return nil }})
	if !errors.Is(err, ErrFeatures) || !strings.Contains(err.Error(), "our own") {
		t.Errorf("Handshake = %v, want %v of our own", err, ErrFeatures)
	}
	if script.out.Len() != HeaderLen {
		t.Errorf("%d bytes were sent, want the header", script.out.Len())
	}
}

// TestSlowPeerIsCutOff: however slowly bytes come, the handshake ends with its
// timeout. The time is the bubble's.
func TestSlowPeerIsCutOff(t *testing.T) {
	whole := append([]byte("weave\x01\x02\x00"), framed(appendFeatureGob(nil, validFeatures()))...)
	for _, pause := range []time.Duration{0, 60 * time.Millisecond, time.Second, 9 * time.Second, time.Hour} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				go io.Copy(io.Discard, a)
				go func() {
					for _, x := range whole {
						select {
						case <-time.After(pause):
						case <-t.Context().Done():
							return
						}
						if _, err := a.Write([]byte{x}); err != nil {
							return
						}
					}
				}()
				start := time.Now()
				_, err := Handshake(t.Context(), b, HandshakeConfig{Features: featuresOf(2)})
				took := time.Since(start)
				if pause == 0 {
					if err != nil {
						t.Error(err)
					}
				} else if !errors.Is(err, os.ErrDeadlineExceeded) || took != DefaultHandshakeTimeout {
					t.Errorf("Handshake = %v after %v, want %v after %v", err, took, os.ErrDeadlineExceeded, DefaultHandshakeTimeout)
				}
				a.Close()
				b.Close()
			})
		})
	}
}

// TestPeerThatDoesNotRead cannot hold a handshake either.
func TestPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go a.Write([]byte("weave\x01\x02\x00"))
		start := time.Now()
		_, err := Handshake(t.Context(), b, HandshakeConfig{Features: featuresOf(2), Timeout: 3 * time.Second})
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 3*time.Second {
			t.Errorf("Handshake = %v after %v, want %v after 3s", err, took, os.ErrDeadlineExceeded)
		}
	})
}

func TestHandshakeIsCancelled(t *testing.T) {
	why := errors.New("shutting down")
	for name, cancelAfter := range map[string]time.Duration{"before": 0, "during": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer a.Close()
				defer b.Close()
				ctx, cancel := context.WithCancelCause(t.Context())
				if cancelAfter == 0 {
					cancel(why)
				} else {
					time.AfterFunc(cancelAfter, func() { cancel(why) })
				}
				start := time.Now()
				_, err := Handshake(ctx, b, HandshakeConfig{Features: featuresOf(2)})
				if took := time.Since(start); !errors.Is(err, why) || took != cancelAfter {
					t.Errorf("Handshake = %v after %v, want %v after %v", err, took, why, cancelAfter)
				}
			})
		})
	}
}

func FuzzHandshake(f *testing.F) {
	for _, name := range []string{"01-connect-plain/0", "13-connect-encrypted/0", "20-v1-plain/0", "21-v1-encrypted/0", "22-v2-without-overlays-feature/0"} {
		_, _, incoming := capturedConnNamed(f, name).end(f, false)
		f.Add(incoming)
	}
	sealed := capturedConnNamed(f, "13-connect-encrypted/0")
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, crypto := range []bool{false, true} {
			cfg := HandshakeConfig{Features: featuresOf(2)}
			if crypto {
				cfg, _ = sealed.config(t, false)
				cfg.MaxVersion = MaxProtocol
			}
			conn, err := Handshake(t.Context(), newScriptConn(in), cfg)
			if (conn == nil) == (err == nil) {
				t.Fatalf("Handshake = %v, %v", conn, err)
			}
			if err != nil {
				continue
			}
			if !conn.Features.Name.Valid() || conn.Features.UID == 0 || conn.Encrypted != crypto {
				t.Fatalf("Handshake accepted %+v, encrypted %v", conn.Features, conn.Encrypted)
			}
			for err == nil {
				_, _, err = conn.ReadMessage()
			}
		}
	})
}
