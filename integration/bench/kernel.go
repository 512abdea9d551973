package main

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

func kernelVariants() []variant {
	return []variant{
		{
			name: vethName, title: "veth, no overlay", kind: kernel, layer: 2,
			find: kernelVersion,
			up: func(ctx context.Context, _ *kit, b *bed) error {
				return b.each(func(i int) error { return b.bridge(ctx, i, underlay, b.mtu) })
			},
		},
		{
			name: vxlanName, title: "kernel VXLAN", kind: kernel, layer: 2,
			find: kernelVersion,
			up: func(ctx context.Context, _ *kit, b *bed) error {
				if len(b.hosts) != 2 {
					return errTwoHosts
				}
				return b.each(func(i int) error {
					if err := b.hosts[i].AddVXLAN(device, underlay, hostAddr(i), hostAddr(1-i)); err != nil {
						return err
					}
					return b.bridge(ctx, i, device, b.mtu-50)
				})
			},
		},
	}
}

func kernelVersion(context.Context, *kit) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:]), nil
}
