package control

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"meshd/internal/identity"
)

// DefaultHandshakeTimeout is the time for a whole handshake.
const DefaultHandshakeTimeout = 10 * time.Second

// ErrWrongPassword says that both ends have a password but not the same.
var ErrWrongPassword = errors.New("cannot decrypt: passwords differ")

// PasswordMismatch is the error where one end has a password and the other none.
type PasswordMismatch struct {
	Ours bool // it is we who have one
}

func (e *PasswordMismatch) Error() string {
	if e.Ours {
		return "we have a password, the peer has none: set the same on both, or none"
	}
	return "the peer has a password, we have none: set the same on both, or none"
}

// HandshakeConfig says how to begin a control connection.
type HandshakeConfig struct {
	Dialled    bool // we opened the connection
	MinVersion byte // lowest protocol version accepted; 0: 1
	MaxVersion byte // highest; 0: 2
	// Passwords are those of the mesh; none: the mesh has none. A dialler uses the
	// first, an acceptor the one that opens or proves what the dialler sent.
	Passwords []Password
	// Identity signs where the Meshd feature of both ends has AbilityIdentity; ours
	// must not have it without an Identity. With one, a peer over a secure stream
	// must have one too.
	Identity *identity.Identity
	// Features gives ours for a protocol version, fresh for each connection: see
	// Features.FeatureMap.
	Features func(version int) map[string]string
	Timeout  time.Duration // for the whole handshake; 0: 10 s
	Rand     io.Reader     // of the key pair; nil: crypto/rand
}

// Handshake begins a control connection, weave protocol sections 1.2 to 1.7:
// header, keys, features. It returns within the timeout, however slowly the
// other end's bytes come, and soon after ctx is done. The peer's features are
// checked by themselves (ParseFeatures); whether the peer is wanted is the
// caller's question. After an error the caller closes conn.
//
// Over a secure stream (see Stream) the protocol is version 2 without weave's
// encryption, and a password is proved by a feature: see proof.go.
//
// A *notOursError is returned where the stream is not a session's: it may be taken
// over by somebody else then.
//
// Errors: ErrNotWeave, ErrVersion, *PasswordMismatch, ErrWrongPassword,
// ErrLowOrder, ErrIdentity, ErrMessageTooLong, ErrFeatures, os.ErrDeadlineExceeded for the
// timeout, ctx's, and those of conn.
func Handshake(ctx context.Context, conn net.Conn, cfg HandshakeConfig) (*Conn, error) {
	timeout := cmp.Or(cfg.Timeout, DefaultHandshakeTimeout)
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, fmt.Errorf("handshake: set deadline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	h := handshake{cfg: cfg, c: newConn(conn, cfg.Dialled)}
	if h.c.exporter != nil {
		h.cfg.MinVersion = 2
	}
	err := h.run()
	if !stop() {
		return nil, fmt.Errorf("handshake: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("handshake: clear deadline: %w", err)
	}
	return h.c, nil
}

type handshake struct {
	cfg     HandshakeConfig
	c       *Conn
	private *ecdh.PrivateKey // with a password, on a stream that is not secure
	ours    Features
}

func (h *handshake) run() error {
	version, err := h.header()
	if err != nil {
		return err
	}
	h.c.setVersion(version)
	if len(h.cfg.Passwords) > 0 && h.c.exporter == nil {
		if h.private, err = newKeyPair(cmp.Or[io.Reader](h.cfg.Rand, rand.Reader)); err != nil {
			return err
		}
	}
	h.c.LocalFeatures = h.cfg.Features(version)
	if h.ours, err = ParseFeatures(h.c.LocalFeatures, version); err != nil {
		return fmt.Errorf("our own features: %w", err)
	}
	switch {
	case version == 1:
		err = h.introV1()
	case h.c.exporter != nil:
		err = h.introSecure()
	default:
		err = h.introV2()
	}
	if err != nil {
		return err
	}
	if err := h.accept(); err != nil {
		return err
	}
	if err := h.identify(); err != nil {
		return err
	}
	h.c.in.limit = maxMessage
	return nil
}

// exchange writes out while read reads, since neither end waits for the other.
// The deadline of the handshake bounds both.
func (h *handshake) exchange(what string, write func() error, read func() error) error {
	written := make(chan error, 1)
	go func() { written <- write() }()
	if err := cmp.Or(read(), <-written); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// send is a write function for exchange.
func (h *handshake) send(b []byte) func() error {
	return func() error {
		_, err := h.c.Net.Write(b)
		return err
	}
}

func (h *handshake) header() (version int, err error) {
	lowest := cmp.Or(h.cfg.MinVersion, MinProtocol)
	highest := cmp.Or(h.cfg.MaxVersion, MaxProtocol)
	var theirs [HeaderLen]byte
	err = h.exchange("exchange headers", h.send(appendHeader(nil, lowest, highest)), func() error {
		n, err := io.ReadFull(h.c.Net, theirs[:]) // and no more: what follows may not be ours
		if err != nil && n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("%w: %w", errUnspoken, err)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if o, ok := h.c.Net.(interface {
		Other([HeaderLen]byte) TakeConn
	}); ok && !h.cfg.Dialled {
		if take := o.Other(theirs); take != nil {
			return 0, &notOursError{take}
		}
	}
	return chooseVersion(theirs, lowest, highest)
}

// introV2 is weave protocol section 1.3:
//
//	| 00 |  no password      | 01 | public key, 32 bytes |  password
//
// then the features as the first message, sealed already. With a password the
// acceptor sends its own after the dialler's: it has to know under which password,
// and a dialler that knows none gets nothing to test guesses on (section 9.1).
func (h *handshake) introV2() error {
	if err := h.keysV2(); err != nil {
		return err
	}
	if h.c.Dialled || h.private == nil {
		return h.exchange("exchange features", h.writeFeatures, h.readFeatures)
	}
	if err := h.readFeatures(); err != nil {
		return fmt.Errorf("read features: %w", err)
	}
	h.c.seal(h.c.in.key)
	if err := h.writeFeatures(); err != nil {
		return fmt.Errorf("write features: %w", err)
	}
	return nil
}

func (h *handshake) writeFeatures() error {
	return h.c.out.writeRaw(appendFeatureGob(nil, h.c.LocalFeatures))
}

func (h *handshake) readFeatures() error {
	b, err := h.c.in.next()
	if err != nil {
		return h.explainEnd(err)
	}
	h.c.RemoteFeatures, err = parseFeatureGob(b)
	return err
}

// errMayDiffer says what it may mean that the peer closes the connection.
var errMayDiffer = errors.New("the peer closed the connection, passwords may differ")

// explainEnd says what it may mean that the peer closes instead of sending its
// features: with a password it read ours first and could not decrypt them.
func (h *handshake) explainEnd(err error) error {
	if !closedByPeer(err) || !h.c.Encrypted {
		return err
	}
	return fmt.Errorf("%w: %w", errMayDiffer, err)
}

func (h *handshake) keysV2() error {
	ours := []byte{0}
	if h.private != nil {
		ours = append([]byte{1}, h.private.PublicKey().Bytes()...)
	}
	var theirs []byte
	err := h.exchange("exchange keys", h.send(ours), func() (err error) {
		theirs, err = readKeyV2(h.c.in.r)
		return err
	})
	if err != nil {
		return err
	}
	return h.agree(theirs)
}

// readKeyV2 returns nil where the peer has no password.
func readKeyV2(r io.Reader) ([]byte, error) {
	var flag [1]byte
	if _, err := io.ReadFull(r, flag[:]); err != nil {
		return nil, err
	}
	switch flag[0] {
	case 0:
		return nil, nil
	case 1:
		key := make([]byte, keyLen)
		_, err := io.ReadFull(r, key)
		return key, unexpected(err)
	}
	return nil, fmt.Errorf("%w: password flag is %d", ErrNotWeave, flag[0])
}

// agree makes the session key where both ends have a password, an acceptor one for
// each of ours. theirs is nil where the peer has none.
func (h *handshake) agree(theirs []byte) error {
	if h.c.exporter != nil && theirs != nil {
		return fmt.Errorf("%w: weave's encryption over a carrier that is secure", ErrNotWeave)
	}
	if (theirs != nil) != (h.private != nil) {
		return &PasswordMismatch{Ours: h.private != nil}
	}
	if theirs == nil {
		return nil
	}
	var keys []*[keyLen]byte
	for _, p := range h.cfg.Passwords {
		key, err := sessionKey(h.private, theirs, p.text)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	if h.c.Dialled {
		h.c.encrypt(keys[0])
		return nil
	}
	h.c.expect(keys)
	return nil
}

// introV1 is weave protocol section 1.4: the features open the gob stream, never
// sealed, and hold the public key.
func (h *handshake) introV1() error {
	h.c.LocalFeatures = onlyV1(h.c.LocalFeatures)
	if h.private != nil {
		h.c.LocalFeatures[featurePublicKey] = hex.EncodeToString(h.private.PublicKey().Bytes())
	}
	var theirs map[string]string
	err := h.exchange("exchange features", h.send(appendFeatureGob(nil, h.c.LocalFeatures)), func() error {
		b, err := readGobValue(h.c.in.r, maxHandshakeMessage)
		if err != nil {
			return err
		}
		theirs, err = parseFeatureGob(b)
		return err
	})
	if err != nil {
		return err
	}
	h.c.RemoteFeatures = onlyV1(theirs)
	public, ok := theirs[featurePublicKey]
	if !ok {
		return h.agree(nil)
	}
	h.c.RemoteFeatures[featurePublicKey] = public
	key, err := parseHexKey(public)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFeatures, featurePublicKey, err)
	}
	if err := h.agree(key[:]); err != nil {
		return err
	}
	return h.settleV1()
}

// settleV1 finds out which of several passwords holds. Version 1 shows it with the
// first message after the features only: a dialler sends a heartbeat for that, an
// acceptor waits for what stock routers send then, their topology.
func (h *handshake) settleV1() error {
	if len(h.cfg.Passwords) == 1 {
		if !h.c.Dialled {
			h.c.encrypt(h.c.in.candidates[0])
		}
		return nil
	}
	h.c.in.limit = maxMessage
	if h.c.Dialled {
		return h.exchange("try the password",
			func() error { return h.c.WriteMessage(TagHeartbeat, nil) },
			func() error { return h.explainEnd(h.c.in.peek()) })
	}
	if err := h.c.in.peek(); err != nil {
		return fmt.Errorf("wait for the first message: %w", err)
	}
	h.c.seal(h.c.in.key)
	return nil
}

// accept reads the peer's features and names the connection.
func (h *handshake) accept() error {
	theirs, err := ParseFeatures(h.c.RemoteFeatures, h.c.Version)
	if err != nil {
		return err
	}
	h.c.Features = theirs
	h.c.UID = h.ours.ConnID ^ theirs.ConnID
	h.c.Proved = h.c.Proved || h.c.Key != nil
	return nil
}

// readGobValue reads the next value of a gob stream and the definitions before
// it, together at most limit bytes.
func readGobValue(r *bufio.Reader, limit int) ([]byte, error) {
	var out []byte
	for {
		count, _, err := readGobUint(r)
		if err != nil {
			return nil, err
		}
		if count > uint64(limit) || len(out)+int(count) > limit {
			return nil, fmt.Errorf("%w: %d bytes before the features, at most %d are taken",
				ErrMessageTooLong, count, limit)
		}
		out = appendGobUint(out, count)
		message, err := readInto(nil, r, int(count))
		if err != nil {
			return nil, err
		}
		out = append(out, message...)
		if id := (&gobCursor{rest: message}).int(); id >= 0 {
			return out, nil
		}
	}
}
