package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"meshd/internal/netns"
)

func TestWrite(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts take root")
	}
	readOnly, missing, host := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{readOnly, host} {
		if err := os.WriteFile(filepath.Join(dir, "accept_ra"), []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var refused, absent error
	err := netns.OnOwnThread(func() error {
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount(readOnly, readOnly, "", unix.MS_BIND, "")
		}
		if err == nil {
			err = unix.Mount("none", readOnly, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
		if err == nil {
			refused = write("accept_ra", "0", readOnly)
			absent = write("accept_ra", "7", missing, host)
			err = write("accept_ra", "0", readOnly, host)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(host, "accept_ra")); string(got) != "0" {
		t.Errorf("the host's file = %q, %v, want 0", got, err)
	}
	if !errors.Is(refused, unix.EROFS) {
		t.Errorf("without a host's /proc/sys: %v, want %v", refused, unix.EROFS)
	}
	// A kernel without IPv6 is no reason to look elsewhere.
	if !errors.Is(absent, fs.ErrNotExist) {
		t.Errorf("a missing file: %v, want %v", absent, fs.ErrNotExist)
	}
}
