package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// kind groups variants.
type kind string

const (
	kernel kind = "kernel" // what the kernel does by itself
	meshd  kind = "meshd"
	stock  kind = "stock"
	others kind = "peer" // other user-space overlays
)

// variant is one way to join two hosts.
type variant struct {
	name  string // on the command line and in results
	title string // for people
	kind  kind
	// secret says that packets are encrypted, layer what is carried: 2 for
	// frames, 3 for IP packets only.
	secret bool
	layer  int
	// find tells the version, or why there is none here.
	find func(ctx context.Context, k *kit) (version string, err error)
	// up starts it on all hosts of a bed and puts the boxes on it.
	up func(ctx context.Context, k *kit, b *bed) error
	// holds is nil while packets go the way that is meant; nil for variants that
	// have one way only.
	holds func(ctx context.Context, b *bed) error
}

// vxlanName and the like are variants that others are compared with.
const (
	vethName      = "veth"
	vxlanName     = "vxlan"
	wireguardName = "wireguard-go"
	stockName     = "stock-sleeve"
	stockPWName   = "stock-sleeve-pw"
	sleeveName    = "sleeve"
	sleevePWName  = "sleeve-pw"
	punchName     = "punch"
	quicName      = "quic"
	tcpName       = "tcp"
)

// variants are all there are, in the order of the tables.
func variants() []variant {
	return slices.Concat(kernelVariants(), meshdVariants(), stockVariants(), []variant{
		wireguard(), fastd("null"), fastd("salsa2012+umac"), tinc(), openVPN(), nebula(),
	})
}

// choose picks the variants that a comma-separated list names: by name, kind or
// pattern such as "punch*"; all for an empty list.
func choose(all []variant, list string) ([]variant, error) {
	if list == "" {
		return all, nil
	}
	picked := map[string]bool{}
	for _, want := range strings.Split(list, ",") {
		want = strings.TrimSpace(want)
		found := false
		for _, v := range all {
			match, err := path.Match(want, v.name)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", want, err)
			}
			if match || string(v.kind) == want {
				picked[v.name], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("no variant %q (there are: %s)", want, strings.Join(namesOf(all), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(v variant) bool { return !picked[v.name] }), nil
}

func namesOf(vs []variant) (names []string) {
	for _, v := range vs {
		names = append(names, v.name)
	}
	return names
}

// each calls f for the number of every host.
func (b *bed) each(f func(host int) error) error {
	for i := range b.hosts {
		if err := f(i); err != nil {
			return fmt.Errorf("host%d: %w", i, err)
		}
	}
	return nil
}

// errTwoHosts is for overlays that we only know how to lay between two hosts.
var errTwoHosts = errors.New("set up for two hosts only")
