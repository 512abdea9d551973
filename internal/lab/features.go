package lab

import (
	"bytes"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"meshd/internal/ethtool"
)

// The ethtool ioctl, linux/ethtool.h: a command's number comes first, feature
// bits come in blocks of 32.
const (
	featureStrings   = 4  // ETH_SS_FEATURES
	featureNameLen   = 32 // ETH_GSTRING_LEN
	featuresPerBlock = 32
	maxFeatures      = 1024 // far more than any kernel has
)

type (
	setInfo struct { // struct ethtool_sset_info with one set
		cmd, _ uint32
		mask   uint64
		count  uint32
	}
	stringSet struct { // struct ethtool_gstrings
		cmd, set, count uint32
		names           [maxFeatures][featureNameLen]byte
	}
	featureState struct { // struct ethtool_gfeatures
		cmd, blocks uint32
		block       [maxFeatures / featuresPerBlock]struct{ available, requested, active, neverChanged uint32 }
	}
	featureChange struct { // struct ethtool_sfeatures
		cmd, blocks uint32
		block       [maxFeatures / featuresPerBlock]struct{ valid, requested uint32 }
	}
)

// Features tells what an interface does for the kernel, on or off, by the names
// of `ethtool -k` in the kernel's own spelling, such as
// "tx-udp-segmentation".
func (n *Namespace) Features(link string) (map[string]bool, error) {
	out := map[string]bool{}
	err := n.features(link, func() error {
		names, err := featureNames(link)
		if err != nil {
			return err
		}
		state := featureState{cmd: unix.ETHTOOL_GFEATURES, blocks: blocksOf(len(names))}
		if err := ethtool.Call(link, unsafe.Pointer(&state)); err != nil {
			return err
		}
		for i, name := range names {
			out[name] = state.block[i/featuresPerBlock].active>>(i%featuresPerBlock)&1 == 1
		}
		return nil
	})
	return out, err
}

// SetFeatures turns features of an interface on or off. Names that this kernel
// does not know are left out: it does not do what they name. What it forbids to
// change is left as it is; Features tells.
func (n *Namespace) SetFeatures(link string, on bool, features ...string) error {
	return n.features(link, func() error {
		names, err := featureNames(link)
		if err != nil {
			return err
		}
		change := changeOf(names, on, features)
		return ethtool.Call(link, unsafe.Pointer(&change))
	})
}

// changeOf marks the features' bits.
func changeOf(names []string, on bool, features []string) featureChange {
	c := featureChange{cmd: unix.ETHTOOL_SFEATURES, blocks: blocksOf(len(names))}
	for i, name := range names {
		for _, f := range features {
			if f != name {
				continue
			}
			b, bit := &c.block[i/featuresPerBlock], uint32(1)<<(i%featuresPerBlock)
			b.valid |= bit
			if on {
				b.requested |= bit
			}
		}
	}
	return c
}

func blocksOf(features int) uint32 {
	return uint32((features + featuresPerBlock - 1) / featuresPerBlock)
}

// features calls f in the namespace.
func (n *Namespace) features(link string, f func() error) error {
	if err := n.Do(f); err != nil {
		return fmt.Errorf("features of %s in %s: %w", link, n.Name, err)
	}
	return nil
}

// featureNames are in the order of the bits.
func featureNames(link string) ([]string, error) {
	info := setInfo{cmd: unix.ETHTOOL_GSSET_INFO, mask: 1 << featureStrings}
	if err := ethtool.Call(link, unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	if info.mask == 0 || info.count > maxFeatures {
		return nil, fmt.Errorf("kernel names %d features", info.count)
	}
	set := &stringSet{cmd: unix.ETHTOOL_GSTRINGS, set: featureStrings, count: info.count}
	if err := ethtool.Call(link, unsafe.Pointer(set)); err != nil {
		return nil, err
	}
	names := make([]string, min(set.count, info.count))
	for i := range names {
		name, _, _ := bytes.Cut(set.names[i][:], []byte{0})
		names[i] = string(name)
	}
	return names, nil
}
