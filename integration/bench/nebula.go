package main

import (
	"context"
	"fmt"
	"os/exec"
)

const (
	nebulaOverhead = 100 // bytes, on the safe side
	nebulaPort     = 4242
)

// nebula carries IP packets; the boxes' subnets are routed over it.
func nebula() variant {
	return variant{
		name: "nebula", title: "nebula", kind: others, secret: true, layer: 3,
		find: func(ctx context.Context, _ *kit) (string, error) {
			if _, err := findProgram("nebula-cert"); err != nil {
				return "", err
			}
			return firstLine(ctx, "Version", "nebula", "-version")
		},
		up: upNebula,
	}
}

func upNebula(ctx context.Context, _ *kit, b *bed) error {
	if len(b.hosts) != 2 {
		return errTwoHosts
	}
	path, err := findProgram("nebula")
	if err != nil {
		return err
	}
	if err := nebulaCertificates(ctx, b); err != nil {
		return err
	}
	mtu := b.mtu - nebulaOverhead
	return b.each(func(i int) error {
		if err := b.write(i, "nebula.yml", nebulaConfig(b, i, mtu)); err != nil {
			return err
		}
		if err := b.start(i, path, []string{"-config", b.file(i, "nebula.yml")}); err != nil {
			return err
		}
		if err := b.appears(ctx, i, device); err != nil {
			return err
		}
		return b.route(i, mtu)
	})
}

// nebulaAddr is a host's address inside nebula.
func nebulaAddr(host int) string { return fmt.Sprintf("10.98.0.%d", host+1) }

// nebulaCertificates makes an authority and the hosts' certificates.
func nebulaCertificates(ctx context.Context, b *bed) error {
	tool, err := findProgram("nebula-cert")
	if err != nil {
		return err
	}
	ca, caKey := b.file(0, "ca.crt"), b.file(0, "ca.key")
	commands := [][]string{{"ca", "-name", "bench", "-out-crt", ca, "-out-key", caKey}}
	for i := range b.hosts {
		commands = append(commands, []string{
			"sign", "-ca-crt", ca, "-ca-key", caKey, "-name", fmt.Sprintf("host%d", i), "-ip", nebulaAddr(i) + "/24",
			"-subnets", subnet(i).String(), "-out-crt", b.file(i, "host.crt"), "-out-key", b.file(i, "host.key"),
		})
	}
	for _, args := range commands {
		if out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("nebula-cert %s: %w: %.200s", args[0], err, out)
		}
	}
	return nil
}

func nebulaConfig(b *bed, host, mtu int) string {
	other := 1 - host
	return fmt.Sprintf(`pki: {ca: %s, cert: %s, key: %s}
static_host_map: {"%s": ["%s:%d"]}
lighthouse: {am_lighthouse: false}
listen: {host: %s, port: %d}
punchy: {punch: false}
tun: {dev: %s, mtu: %d, unsafe_routes: [{route: %s, via: %s, mtu: %d}]}
logging: {level: warning}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`, b.file(0, "ca.crt"), b.file(host, "host.crt"), b.file(host, "host.key"),
		nebulaAddr(other), hostAddr(other), nebulaPort, hostAddr(host), nebulaPort,
		device, mtu, subnet(other), nebulaAddr(other), mtu)
}
