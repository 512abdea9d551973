package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"meshd/internal/frame"
)

// Override is the transports for some peers, in place of Config.Transports: those
// that are not in it are not used for them. One of Name and Net is set.
type Override struct {
	Name       frame.PeerName
	Net        netip.Prefix
	Transports []string // in order of preference
}

// Peer is whom the override is for, as it is written.
func (o Override) Peer() string {
	if o.Name != 0 {
		return o.Name.String()
	}
	return o.Net.String()
}

// overrideKeys are the keys of an override.
var overrideKeys = []string{"peer", "transports"}

// setOverrides reads `overrides`. The fields of its faults are the way from there,
// such as "[1].transports[0]".
func setOverrides(to *[]Override, items []any) (faults []*FieldError) {
	*to = nil
	seen := map[string]int{}
	for i, item := range items {
		o, wrong := readOverride(item)
		if len(wrong) == 0 {
			if first, twice := seen[o.Peer()]; twice {
				wrong = below(".peer", fault(o.Peer(), "is there twice", fmt.Sprintf("overrides[%d] is for it already", first)))
			} else {
				seen[o.Peer()] = i
			}
		}
		faults = append(faults, below(fmt.Sprintf("[%d]", i), wrong...)...)
		*to = append(*to, o)
	}
	return faults
}

func readOverride(item any) (o Override, faults []*FieldError) {
	m, ok := item.(map[string]any)
	if !ok {
		return o, []*FieldError{wrongType(item, "a section with keys", "wanted {peer: NAME_OR_CIDR, transports: [...]}")}
	}
	for key := range m {
		if !slices.Contains(overrideKeys, key) {
			faults = append(faults, below("."+key, unknownBelow(key, overrideKeys))...)
		}
	}
	peer, wrong := toText(m["peer"])
	if wrong == nil {
		wrong = o.setPeer(peer.(string))
	}
	if wrong != nil {
		faults = append(faults, below(".peer", wrong)...)
	}
	list, wrong := toList(m["transports"])
	if wrong != nil {
		return o, append(faults, below(".transports", wrong)...)
	}
	o.Transports = list.([]string)
	return o, append(faults, below(".transports", checkTransports(o.Transports, nil)...)...)
}

// setPeer reads a peer's name, a subnet, or one address, which is a subnet too.
func (o *Override) setPeer(s string) *FieldError {
	if name, err := frame.ParsePeerName(s); err == nil && !strings.Contains(s, "::") {
		o.Name = name
		return nil
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		o.Net = netip.PrefixFrom(addr, addr.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return fault(s, "is not a peer name, subnet or address", "wanted xx:xx:xx:xx:xx:xx, or CIDR such as 10.1.0.0/16")
	case p != p.Masked():
		return fault(s, "has bits beyond its prefix", "did you mean "+p.Masked().String()+"?")
	}
	o.Net = p
	return nil
}

// checkOverrides checks that all transports exist and are in `transports`. A name
// that is wrong by itself is the fault of one of them only.
func checkOverrides(overrides []Override, configured, exist []string) (faults []*FieldError) {
	for i, o := range overrides {
		wrong := checkTransports(o.Transports, exist)
		if len(wrong) == 0 {
			wrong = each(o.Transports, func(s string) *FieldError {
				if slices.Contains(configured, s) {
					return nil
				}
				return fault(s, "is not in `transports`", "add it there: only those are opened")
			})
		}
		faults = append(faults, below(fmt.Sprintf("[%d].transports", i), wrong...)...)
	}
	return faults
}

// below puts a step of the way before the fields of faults.
func below(step string, faults ...*FieldError) []*FieldError {
	for _, f := range faults {
		f.Field = step + f.Field
	}
	return faults
}

func unknownBelow(key string, exist []string) *FieldError {
	f := fault("", "unknown key", "there are: "+strings.Join(exist, ", "))
	if near := nearest(key, exist); near != "" {
		f.Remedy = fmt.Sprintf("did you mean `%s`?", near)
	}
	return f
}

// tables is overrides as it is in a file.
func tables(overrides []Override) []any {
	out := []any{}
	for _, o := range overrides {
		out = append(out, map[string]any{"peer": o.Peer(), "transports": o.Transports})
	}
	return out
}
