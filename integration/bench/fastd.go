package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

const (
	fastdOverhead = 74 // bytes
	fastdPort     = 10000
)

// fastd carries frames with one of its methods.
func fastd(method string) variant {
	name, title := "fastd", "fastd "+method
	if method == "null" {
		name = "fastd-null"
	}
	return variant{
		name: name, title: title, kind: others, secret: method != "null", layer: 2,
		find: func(ctx context.Context, _ *kit) (string, error) {
			return firstLine(ctx, "fastd", "fastd", "--version")
		},
		up: func(ctx context.Context, _ *kit, b *bed) error { return upFastd(ctx, b, method) },
	}
}

func upFastd(ctx context.Context, b *bed, method string) error {
	if len(b.hosts) != 2 {
		return errTwoHosts
	}
	path, err := findProgram("fastd")
	if err != nil {
		return err
	}
	var secrets, public [2]string
	for i := range b.hosts {
		if secrets[i], public[i], err = fastdKey(ctx, b, path, i); err != nil {
			return err
		}
	}
	mtu := b.mtu - fastdOverhead
	return b.each(func(i int) error {
		if err := b.write(i, "fastd.conf", fastdConfig(method, mtu, i, secrets[i], public[1-i])); err != nil {
			return err
		}
		if err := b.start(i, path, []string{"--config", b.file(i, "fastd.conf")}); err != nil {
			return err
		}
		return b.bridge(ctx, i, device, mtu)
	})
}

// fastdKey makes a key pair; only fastd knows its form.
func fastdKey(ctx context.Context, b *bed, path string, host int) (secret, public string, err error) {
	out, err := exec.CommandContext(ctx, path, "--machine-readable", "--generate-key").Output()
	if err != nil {
		return "", "", fmt.Errorf("fastd --generate-key: %w", err)
	}
	secret = strings.TrimSpace(string(out))
	if err := b.write(host, "key.conf", fmt.Sprintf("secret %q;\n", secret)); err != nil {
		return "", "", err
	}
	out, err = exec.CommandContext(ctx, path, "--machine-readable", "--show-key", "--config", b.file(host, "key.conf")).Output()
	if err != nil {
		return "", "", fmt.Errorf("fastd --show-key: %w", err)
	}
	return secret, strings.TrimSpace(string(out)), nil
}

func fastdConfig(method string, mtu, host int, secret, other string) string {
	return fmt.Sprintf(`log level warn;
interface %q;
mode tap;
method %q;
mtu %d;
bind %s:%d;
secret %q;
peer "other" { key %q; remote %s:%d; }
`, device, method, mtu, hostAddr(host), fastdPort, secret, other, hostAddr(1-host), fastdPort)
}
