// Package dump reads lists of the kernel's in one piece.
package dump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// tries is how often a list is asked for until it is in one piece.
const tries = 10

// Whole repeats a dump that changes in the middle have torn, as attachments make on a
// busy host.
func Whole[T any](dump func() ([]T, error)) (list []T, err error) {
	for range tries {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}
