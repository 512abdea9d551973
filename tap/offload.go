package tap

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What Config.Offload may be; empty is OffloadAuto.
const (
	OffloadAuto = "auto" // with offloads where the kernel can, else without
	OffloadOn   = "on"   // with offloads, or not at all
	OffloadOff  = "off"  // without
)

// Offload says which work on frames the port leaves to the kernel. Where it is on,
// a TCP or UDP stream of the bridge crosses the port in super-frames of up to
// 64 KiB; else in single frames with complete checksums.
type Offload struct {
	On bool `json:"on"`
	// Features are what the kernel may leave undone in frames that the port reads:
	// csum, tso4, tso6, ecn, uso4, uso6.
	Features []string `json:"features,omitempty"`
	Why      string   `json:"why,omitempty"` // where something is off: the reason
}

// ErrNoOffload says that Config.Offload is OffloadOn and the kernel has none.
var ErrNoOffload = errors.New("the kernel's TAP driver has no offloads: set tap.offload to auto or off")

// errNoVnet is the reason why an offload device could not be opened, if it is the
// kernel's age and not a fault that the portable backend would meet as well.
var errNoVnet = errors.New("the kernel's TAP driver has no virtio-net header")

// Offload says what is in force now. It may change while Run runs, as the kernel
// shows what it takes.
func (p *Port) Offload() Offload { return p.dev.Load().Offload() }

// features are the kernel's TUN_F_… flags.
type features int

var featureNames = []struct {
	flag features
	name string
}{
	{unix.TUN_F_CSUM, "csum"},
	{unix.TUN_F_TSO4, "tso4"},
	{unix.TUN_F_TSO6, "tso6"},
	{unix.TUN_F_TSO_ECN, "ecn"},
	{unix.TUN_F_USO4, "uso4"},
	{unix.TUN_F_USO6, "uso6"},
}

func (f features) names() []string {
	var names []string
	for _, n := range featureNames {
		if f&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// wishes are what the port asks for, best first. USO came with Linux 6.2, both
// versions together; the others are older than any kernel that Go runs on, but
// some drivers that imitate Linux's know few. Segmentation needs checksums.
var wishes = []features{
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6,
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6,
	unix.TUN_F_CSUM | unix.TUN_F_TSO4,
	unix.TUN_F_CSUM,
	0,
}

// probe asks for one wish after the other until set takes one.
func probe(set func(features) error) (features, error) {
	var err error
	for _, f := range wishes {
		if err = set(f); err == nil {
			return f, nil
		}
	}
	return 0, err
}

func checkOffload(mode string) error {
	switch mode {
	case "", OffloadAuto, OffloadOn, OffloadOff:
		return nil
	}
	return fmt.Errorf("tap.offload is %q: want auto, on or off", mode)
}
