package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"meshd/internal/sysctl"
)

// What a container's neighbour table is told, from Weave Net: a MAC that does not
// answer any more is asked for anew within seconds, as containers move.
const (
	baseReachable   = 5 * time.Second
	delayFirstProbe = 2 * time.Second
	unicastProbes   = 1
)

// The neighbour table message, linux/neighbour.h: struct ndtmsg of 4 bytes, of
// which the first one is the family, then attributes.
const (
	ndtaName  = 1
	ndtaParms = 6

	ndtpaIfindex       = 1
	ndtpaBaseReachable = 4 // milliseconds, 64 bits
	ndtpaDelayProbe    = 7 // the same
	ndtpaUcastProbes   = 10
)

// What a device's IPv4 settings are called in netlink, linux/if_link.h and
// linux/ip.h.
const (
	inetConf               = 1
	confPromoteSecondaries = 20
)

// ndtmsg is a struct ndtmsg.
type ndtmsg [4]byte

func (m ndtmsg) Len() int          { return len(m) }
func (m ndtmsg) Serialize() []byte { return m[:] }

// addrGenNone is IN6_ADDR_GEN_MODE_NONE, linux/if_link.h.
const addrGenNone = 1

// settle makes the settings of the inner end; the thread is in the container.
func (a *attachment) settle() error {
	return errors.Join(
		tuneNeighbours(a.inner.Attrs().Index),
		promoteSecondaries(a.inner.Attrs().Index),
		// Only this one needs /proc/sys to be writable: there is no other way.
		a.sysctl("accept_ra", "0"),
	)
}

// tuneNeighbours sets a device's ARP parameters, in the thread's namespace. This way
// needs no writable /proc/sys.
func tuneNeighbours(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETNEIGHTBL, unix.NLM_F_ACK)
	parms := nl.NewRtAttr(ndtaParms|unix.NLA_F_NESTED, nil)
	parms.AddRtAttr(ndtpaIfindex, nl.Uint32Attr(uint32(index)))
	parms.AddRtAttr(ndtpaBaseReachable, milliseconds(baseReachable))
	parms.AddRtAttr(ndtpaDelayProbe, milliseconds(delayFirstProbe))
	parms.AddRtAttr(ndtpaUcastProbes, nl.Uint32Attr(unicastProbes))
	req.AddData(ndtmsg{unix.AF_INET})
	req.AddData(nl.NewRtAttr(ndtaName, nl.ZeroTerminated("arp_cache")))
	req.AddData(parms)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("set ARP parameters: %w", err)
	}
	return nil
}

// promoteSecondaries lets further addresses of a subnet outlive the first one, in
// the thread's namespace.
func promoteSecondaries(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil)
	conf.AddRtAttr(confPromoteSecondaries, nl.Uint32Attr(1))
	req.AddData(msg)
	req.AddData(spec)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("have further addresses outlive the first one: %w", err)
	}
	return nil
}

func milliseconds(d time.Duration) []byte {
	return binary.NativeEndian.AppendUint64(nil, uint64(d.Milliseconds()))
}

// allowIPv6 switches IPv6 on for the inner end: engines switch it off in containers
// that have no IPv6 address of theirs. The thread is in the container.
func (a *attachment) allowIPv6() error { return a.sysctl("disable_ipv6", "0") }

// sysctl sets an IPv6 setting of the inner end; the thread is in the container.
func (a *attachment) sysctl(name, value string) error {
	return setIPv6(a.device, name, value)
}

// setIPv6 sets an IPv6 setting of a device in the thread's namespace, if it has another
// value. One that is not there, as of a kernel without IPv6, needs none.
func setIPv6(device, name, value string) error {
	setting := filepath.Join("net/ipv6/conf", device, name)
	now, err := os.ReadFile(filepath.Join("/proc/sys", setting))
	if errors.Is(err, fs.ErrNotExist) || err == nil && string(now) == value+"\n" {
		return nil
	}
	if err := sysctl.Write(setting, value); err != nil {
		return fmt.Errorf("set %s of %s: %w", name, device, err)
	}
	return nil
}
