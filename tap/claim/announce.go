package claim

import (
	"net/netip"
	"time"
)

// Announcements are made twice, as one may be lost. RFC 5227, section 2.3 has 2 s
// between them, which is too long to wait for; entries that stay wrong in spite of
// both end by themselves within a minute.
const (
	announcements = 2
	announceGap   = 50 * time.Millisecond
)

// Announce tells everybody on the overlay that a device has addresses, so that
// neighbour tables that knew another MAC are corrected: ARP announcements in request
// form (RFC 5227, section 2.3), unsolicited neighbour advertisements with the
// override flag to all nodes. It takes 50 ms.
//
// It works in the network namespace of the calling thread. Errors wrap ErrNoDevice
// or ErrDown.
func Announce(device string, addrs []netip.Addr) error {
	if err := check(addrs); err != nil || len(addrs) == 0 {
		return err
	}
	w, err := dial(device, false)
	if err != nil {
		return err
	}
	defer w.close()
	var frames [][]byte
	for _, a := range addrs {
		frames = append(frames, announcementOf(a.WithZone(""), w.mac))
	}
	for n := range announcements {
		if n > 0 {
			time.Sleep(announceGap)
		}
		if err := w.send(frames); err != nil {
			return err
		}
	}
	return nil
}
