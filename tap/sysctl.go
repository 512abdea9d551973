package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"meshd/internal/sysctl"
)

// setting is one value below /proc/sys/net/ipv6/conf/DEVICE.
type setting struct{ name, value string }

// bridgeSettings keep the host off the overlay: routers there must not configure
// it, and it has no address of its own making.
var bridgeSettings = []setting{
	{"accept_ra", "0"},
	{"accept_redirects", "0"},
	{"addr_gen_mode", "1"}, // none: no link-local address, so no traffic of ours
}

// portSettings keep the host's IPv6 off the port: it is a port of the bridge only.
var portSettings = []setting{
	{"disable_ipv6", "1"},
	{"accept_ra", "0"},
}

// setIPv6 writes settings of a device in the calling thread's namespace. A kernel
// without IPv6 has nothing to set.
func setIPv6(device string, settings []setting) error {
	var errs []error
	for _, s := range settings {
		err := sysctl.Write(path.Join("net/ipv6/conf", device, s.name), s.value)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("set %s of %s: %w", s.name, device, err))
		}
	}
	return errors.Join(errs...)
}
