package attach

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
	"meshd/internal/subnet"
)

// DefaultDevice is what the interface is called inside, as with Weave Net.
const DefaultDevice = "ethwe"

const (
	hostPrefix = "vethwe"        // of the host side's name
	tag        = "meshd attach " // of the host side's alias, before the key
	// maxKey is the longest key in bytes: an alias has 255 at most.
	maxKey = 255 - len(tag)
	// maxAddresses bounds what one interface gets.
	maxAddresses = 256
)

// Options is what Attach and Detach are asked for.
type Options struct {
	// Bridge is the bridge in the host; Detach needs none.
	Bridge string
	// Key is what the attachment is known by, at most 242 bytes of text: the
	// container's id.
	Key string
	// Addresses have the length of their subnet.
	Addresses []netip.Prefix
	// Device is the name inside, empty for DefaultDevice.
	Device string
	// NoMulticastRoute: no route for 224.0.0.0/4.
	NoMulticastRoute bool
	// Log is told what the attachment can do without, nil for nobody.
	Log *slog.Logger
}

// Interface is an attachment as it is.
type Interface struct {
	Key        string
	Device     string // inside
	MAC        frame.MAC
	MTU        int            // bytes
	Addresses  []netip.Prefix // without those that the kernel made
	HostDevice string         // on the bridge
}

// checked is o with what it leaves out filled in, or what is wrong with it.
func (o Options) checked() (Options, error) {
	if o.Device == "" {
		o.Device = DefaultDevice
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkKey(o.Key); err != nil {
		return o, err
	}
	if err := checkDevice(o.Device); err != nil {
		return o, err
	}
	if len(o.Addresses) > maxAddresses {
		return o, fmt.Errorf("%d addresses for one container, of at most %d", len(o.Addresses), maxAddresses)
	}
	if err := subnet.CheckAll(o.Addresses); err != nil {
		return o, err
	}
	return o, nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return errors.New("an attachment needs a key")
	case len(key) > maxKey:
		return fmt.Errorf("the key of an attachment has %d bytes, of at most %d", len(key), maxKey)
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl):
		return fmt.Errorf("the key of an attachment has to be text: %q", key)
	}
	return nil
}

// checkDevice refuses names that the kernel would refuse, or that mean something
// else below /proc/sys/net.
func checkDevice(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || slices.Contains([]string{".", "..", "all", "default", "lo"}, name) ||
		strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || r == '%' || r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q is not a name for a network device", name)
	}
	return nil
}

// hostName is the name of the host side.
func hostName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return fmt.Sprintf("%s%x", hostPrefix, sum[:4])
}
