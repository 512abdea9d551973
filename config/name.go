package config

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"meshd/internal/atomicfile"
	"meshd/internal/frame"
)

// NameSources is what a peer name can be derived from. The zero value reads the
// machine's own files and knows of no bridge and no state directory.
type NameSources struct {
	MachineID   string    // path; default /etc/machine-id
	ProductUUID string    // path; default /sys/class/dmi/id/product_uuid
	BridgeMAC   frame.MAC // of the bridge if it exists already; zero: none
	StateDir    string    // where a random name is kept; empty: it is not
}

// nameSalt goes before the machine's identity: weave protocol, section 8.1.
const nameSalt = "9oBJ0Jmip-"

// DefaultPeerName is the name of a host that was given none. It is derived as a
// stock router derives it, so that a host keeps its name (weave protocol, section
// 8.1): from machine-id and product_uuid, or from one of them where the other
// does not exist. Where neither exists it is the MAC of the bridge, as older
// routers had it; and else a random one, kept in StateDir/name. source says which
// it was. A file that exists but cannot be read is an error: the name would not
// be the same as root.
func DefaultPeerName(from NameSources) (name frame.PeerName, source string, err error) {
	identity, source, err := machineIdentity(from)
	if err != nil {
		return 0, "", fmt.Errorf("derive the peer name: %w", err)
	}
	if len(identity) > 0 {
		return hashedName(identity), source, nil
	}
	if mac := from.BridgeMAC; mac != (frame.MAC{}) && !mac.Multicast() {
		return frame.PeerNameOf(mac[:]), "bridge MAC", nil
	}
	if from.StateDir == "" {
		return randomName(), "random", nil
	}
	return keptName(filepath.Join(from.StateDir, "name"))
}

// machineIdentity is the contents of the files that exist, one after the other,
// line ends included.
func machineIdentity(from NameSources) (identity []byte, source string, err error) {
	paths := []string{from.MachineID, from.ProductUUID}
	for i, def := range []string{"/etc/machine-id", "/sys/class/dmi/id/product_uuid"} {
		if paths[i] == "" {
			paths[i] = def
		}
	}
	var used []string
	for _, path := range paths {
		content, err := readSmall(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if len(bytes.TrimSpace(content)) > 0 {
			identity = append(identity, content...)
			used = append(used, filepath.Base(path))
		}
	}
	return identity, strings.Join(used, " and "), nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}

func hashedName(identity []byte) frame.PeerName {
	sum := sha256.Sum256(append([]byte(nameSalt), identity...))
	return local(sum[:])
}

// local makes a name of 6 bytes that is a locally administered unicast MAC.
func local(b []byte) frame.PeerName {
	b[0] = b[0]&^0x01 | 0x02
	return frame.PeerNameOf(b)
}

func randomName() frame.PeerName {
	var b [frame.PeerNameLen]byte
	rand.Read(b[:]) // never fails
	return local(b[:])
}

// keptName reads the name in a file, or writes a random one there.
func keptName(path string) (frame.PeerName, string, error) {
	content, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newName(path)
	}
	if err != nil {
		return 0, "", fmt.Errorf("read the kept peer name: %w", err)
	}
	name, err := frame.ParsePeerName(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, "", fmt.Errorf("read the kept peer name in %s: %w", path, err)
	}
	return name, path, nil
}

// newName keeps a random name. Neither a crash nor a second process leaves half a file
// or two names.
func newName(path string) (frame.PeerName, string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return 0, "", fmt.Errorf("keep a random peer name: %w", err)
	}
	name := randomName()
	if err := atomicfile.Create(path, []byte(name.String()+"\n")); errors.Is(err, fs.ErrExist) {
		return keptName(path)
	} else if err != nil {
		return 0, "", fmt.Errorf("keep a random peer name: %w", err)
	}
	return name, path, nil
}
