package control

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// What stock routers said to each other, from testdata: golden.json, and
// conversations, which has every control connection of every capture.

// hexBytes are bytes that JSON has in hex.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type capturedConn struct {
	Version      int
	ClientHeader hexBytes `json:"client_header"`
	ServerHeader hexBytes `json:"server_header"`
	UID          uint64   `json:"connection_uid,string"`
	Crypto       *capturedKeys
	Messages     []capturedMessage
}

type capturedKeys struct {
	ClientPrivate hexBytes `json:"client_private"`
	ClientPublic  hexBytes `json:"client_public"`
	ServerPrivate hexBytes `json:"server_private"`
	ServerPublic  hexBytes `json:"server_public"`
	Password      string   `json:"password_utf8"`
	SessionKey    hexBytes `json:"session_key"`
}

type capturedMessage struct {
	Dir           string // "client>server": by the dialler
	Kind          string
	Tag           byte
	Wire          hexBytes
	Plaintext     hexBytes
	Nonce         hexBytes
	Features      map[string]string
	Gossip        *capturedGossip
	DecryptFailed bool `json:"decrypt_failed"`
}

func (m capturedMessage) dialler() bool { return m.Dir == "client>server" }

type capturedGossip struct {
	Channel     string
	Source      frame.PeerName
	Destination frame.PeerName
	Payload     hexBytes
	Topology    []capturedPeer
}

type capturedPeer struct {
	NameByte    hexBytes
	NickName    string
	UID         uint64 `json:",string"`
	Version     uint64
	ShortID     uint16
	HasShortID  bool
	Connections []capturedConnection
}

type capturedConnection struct {
	NameByte      hexBytes
	RemoteTCPAddr string
	Outbound      bool
	Established   bool
}

// peer is the entry as DecodeTopology should give it.
func (p capturedPeer) peer() routing.Peer {
	out := routing.Peer{
		Name: frame.PeerNameOf(p.NameByte), NickName: p.NickName, UID: p.UID,
		Version: p.Version, ShortID: p.ShortID, HasShortID: p.HasShortID,
	}
	for _, c := range p.Connections {
		out.Connections = append(out.Connections, routing.Connection{
			Peer: frame.PeerNameOf(c.NameByte), RemoteAddr: c.RemoteTCPAddr,
			Outbound: c.Outbound, Established: c.Established,
		})
	}
	sortConnections(out.Connections)
	return out
}

// readJSON reads a file of testdata.
func readJSON(tb testing.TB, path string, into any) {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", path))
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
}

// capturedConns gives all control connections that were captured with messages,
// by a name of their own.
func capturedConns(tb testing.TB) map[string]capturedConn {
	tb.Helper()
	paths, err := filepath.Glob("testdata/conversations/*.json")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no conversations in testdata: %v", err)
	}
	conns := map[string]capturedConn{}
	for _, path := range paths {
		var file struct {
			Conns []capturedConn `json:"tcp_connections"`
		}
		base := filepath.Base(path)
		readJSON(tb, filepath.Join("conversations", base), &file)
		for i, c := range file.Conns {
			conns[strings.TrimSuffix(base, ".json")+"/"+strconv.Itoa(i)] = c
		}
	}
	return conns
}

// capturedConnNamed gives one of capturedConns.
func capturedConnNamed(tb testing.TB, name string) capturedConn {
	tb.Helper()
	c, ok := capturedConns(tb)[name]
	if !ok {
		tb.Fatalf("no captured connection %s", name)
	}
	return c
}

// goldenMessages gives every message of golden.json, section by section.
func goldenMessages(tb testing.TB) []capturedMessage {
	tb.Helper()
	var sections map[string]json.RawMessage
	readJSON(tb, "golden.json", &sections)
	var out []capturedMessage
	for name, raw := range sections {
		if name == "about" || strings.HasPrefix(name, "sleeve") {
			continue
		}
		var list []capturedMessage
		if json.Unmarshal(raw, &list) == nil {
			out = append(out, list...)
			continue
		}
		var groups map[string]json.RawMessage
		if err := json.Unmarshal(raw, &groups); err != nil {
			tb.Fatalf("golden.json: %s: %v", name, err)
		}
		for _, raw := range groups {
			var list []capturedMessage
			if json.Unmarshal(raw, &list) == nil {
				out = append(out, list...)
			}
		}
	}
	return out
}

// scriptConn is a connection whose other end says what it has to say at once,
// and then no more. What is written to it is kept.
type scriptConn struct {
	net.Conn // nil: the methods that are not here are not called
	in       *bytes.Reader
	out      bytes.Buffer
}

func newScriptConn(chunks ...[]byte) *scriptConn {
	return &scriptConn{in: bytes.NewReader(bytes.Join(chunks, nil))}
}

func (c *scriptConn) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *scriptConn) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *scriptConn) SetDeadline(time.Time) error { return nil }

// end gives one end's view of a captured connection: its private key (nil
// without a password) and features, and all bytes that came from the other end.
func (c capturedConn) end(tb testing.TB, dialler bool) (private hexBytes, features map[string]string, incoming []byte) {
	tb.Helper()
	header, public := c.ServerHeader, hexBytes(nil)
	if !dialler {
		header = c.ClientHeader
	}
	if c.Crypto != nil {
		private, public = c.Crypto.ClientPrivate, c.Crypto.ServerPublic
		if !dialler {
			private, public = c.Crypto.ServerPrivate, c.Crypto.ClientPublic
		}
	}
	incoming = append(incoming, header...)
	if c.Version == 2 && public == nil {
		incoming = append(incoming, 0)
	} else if c.Version == 2 {
		incoming = append(append(incoming, 1), public...)
	}
	for _, m := range c.Messages {
		if m.dialler() != dialler {
			incoming = append(incoming, m.Wire...)
		} else if m.Features != nil {
			features = m.Features
		}
	}
	return private, features, incoming
}

// config is the handshake configuration of one end.
func (c capturedConn) config(tb testing.TB, dialler bool) (HandshakeConfig, []byte) {
	tb.Helper()
	private, features, incoming := c.end(tb, dialler)
	cfg := HandshakeConfig{
		Dialled: dialler, MaxVersion: byte(c.Version),
		Features: func(int) map[string]string { return features },
	}
	if c.Crypto != nil {
		cfg.Passwords = Passwords([]byte(c.Crypto.Password))
		cfg.Rand = bytes.NewReader(private)
	}
	return cfg, incoming
}
