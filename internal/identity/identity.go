package identity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"meshd/internal/atomicfile"
)

// fileName is the private key's file in the state directory.
const fileName = "identity"

// maxFile bounds the private key's file in bytes; a key has about 120.
const maxFile = 4096

// pemType is the type of the block in it, RFC 5958 in the form of RFC 7468.
const pemType = "PRIVATE KEY"

// Identity is the host's private key. Its methods may be called concurrently.
type Identity struct{ private ed25519.PrivateKey }

// FileError says what is wrong with the file of the private key, and what to do.
// A file that cannot be used is never replaced: the other hosts know the key.
type FileError struct {
	Path string
	Err  error
	Then string // the remedy
}

func (e *FileError) Error() string { return fmt.Sprintf("identity %s: %v: %s", e.Path, e.Err, e.Then) }
func (e *FileError) Unwrap() error { return e.Err }

// New makes an identity that is in no file.
func New() (*Identity, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	return &Identity{private}, nil
}

// Open reads the identity in a state directory, or makes one if there is none;
// made says so. Errors are *FileError, for a directory that does not exist too.
func Open(dir string) (id *Identity, made bool, err error) {
	path := filepath.Join(dir, fileName)
	id, err = read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	if id, err = New(); err != nil {
		return nil, false, err
	}
	err = id.create(path)
	if errors.Is(err, fs.ErrExist) { // somebody was faster
		id, err = read(path)
		return id, false, err
	}
	if err != nil {
		return nil, false, &FileError{path, plain(err), "state_dir must be a directory that meshd can write to"}
	}
	return id, true, nil
}

// Public is the host's public key.
func (id *Identity) Public() Key { return Key(id.private.Public().(ed25519.PublicKey)) }

// Sign signs a message, 64 bytes.
func (id *Identity) Sign(message []byte) []byte { return ed25519.Sign(id.private, message) }

// read reads a file. fs.ErrNotExist comes as it is.
func read(path string) (*Identity, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	const foreign = "put back the host's own file from a backup, or remove this one to get a new key, which the other hosts then have to accept (`meshd trust forget`)"
	switch {
	case err != nil:
		return nil, &FileError{path, plain(err), "let meshd read it"}
	case !info.Mode().IsRegular():
		return nil, &FileError{path, errors.New("is not a regular file"), foreign}
	case info.Mode().Perm()&0o077 != 0:
		return nil, &FileError{path, fmt.Errorf("others can read or write it (mode %04o)", info.Mode().Perm()),
			"chmod 600 it; if somebody may have read it, remove it to get a new key"}
	case info.Size() > maxFile:
		return nil, &FileError{path, fmt.Errorf("has %d bytes, too many for a key", info.Size()), foreign}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &FileError{path, plain(err), "let meshd read it"}
	}
	id, err := parse(data)
	if err != nil {
		return nil, &FileError{path, err, foreign}
	}
	return id, nil
}

// parse reads the file's content: one PEM block with a PKCS #8 Ed25519 key.
func parse(data []byte) (*Identity, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || len(rest) > 0 {
		return nil, errors.New("is torn or not a private key in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("is torn: %w", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("has a key of another kind than Ed25519")
	}
	return &Identity{private}, nil
}

func (id *Identity) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(id.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// create writes the file, whole or not at all, and never over another one.
func (id *Identity) create(path string) error {
	data, err := id.encode()
	if err != nil {
		return err
	}
	return atomicfile.Create(path, data)
}

// plain leaves the path out of an error that stands beside it.
func plain(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// Secret derives a secret that lasts as long as the key, for the use that the label
// names: HKDF-SHA256 of the private key.
func (id *Identity) Secret(label string) (*[32]byte, error) {
	b, err := hkdf.Key(sha256.New, id.private.Seed(), nil, label, 32)
	if err != nil {
		return nil, fmt.Errorf("derive %q: %w", label, err)
	}
	return (*[32]byte)(b), nil
}

// Certificate is a self-signed certificate of the key, for TLS: it says no more
// than the key. It is valid from 1970 to 9999 (RFC 5280, section 4.1.2.5: no
// well-defined expiration), so that hosts with a wrong clock can talk.
func (id *Identity) Certificate() (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "meshd " + id.Public().String()},
		NotBefore:             time.Unix(0, 0),
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, id.private.Public(), id.private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.private, Leaf: leaf}, nil
}
