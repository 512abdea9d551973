package ethtool

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/netns"
)

func TestGetAndSet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	err := netns.OnOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "fifteen-letters" // the longest name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
			return err
		}
		for _, want := range []uint32{0, 1} {
			if err := Set(attrs.Name, unix.ETHTOOL_STXCSUM, want); err != nil {
				return err
			}
			if got, err := Get(attrs.Name, unix.ETHTOOL_GTXCSUM); err != nil || got != want {
				t.Errorf("Get = %d, %v, want %d", got, err, want)
			}
		}
		if _, err := Get("nobody", unix.ETHTOOL_GTXCSUM); !errors.Is(err, unix.ENODEV) {
			t.Errorf("Get of no device = %v, want ENODEV", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
