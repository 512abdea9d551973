package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"meshd/internal/lab"
)

const (
	wireguardModule   = "golang.zx2c4.com/wireguard"
	wireguardOverhead = 80 // bytes, as wg-quick assumes
	wireguardPort     = 51820
)

// wireguard is the newest wireguard-go, from the Go module proxy: IP packets
// between the boxes' subnets.
func wireguard() variant {
	return variant{
		name: wireguardName, title: "wireguard-go, newest", kind: others, secret: true, layer: 3,
		find: func(ctx context.Context, k *kit) (version string, err error) {
			k.wireguardPath, version, err = goInstall(ctx, wireguardModule, "wireguard")
			return version, err
		},
		up: upWireGuard,
	}
}

func upWireGuard(ctx context.Context, k *kit, b *bed) error {
	if len(b.hosts) != 2 {
		return errTwoHosts
	}
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	return b.each(func(i int) error {
		h := b.hosts[i]
		p, err := h.Start(lab.Command{
			Path: k.wireguardPath, Args: []string{"-f", device}, Log: b.file(i, "log"),
			Hide: []string{"/run"}, // its socket's directory is not of this lab
		})
		if err != nil {
			return err
		}
		if err := b.appears(ctx, i, device); err != nil {
			return err
		}
		if err := configureWireGuard(ctx, p.PID(), wireguardSettings(keys[i], keys[1-i].PublicKey(), 1-i)); err != nil {
			return err
		}
		mtu := b.mtu - wireguardOverhead
		if err := h.SetMTU(device, mtu); err != nil {
			return err
		}
		if err := h.Up(device); err != nil {
			return err
		}
		if err := h.AddRoute(subnet(1-i), netip.Addr{}, device); err != nil {
			return err
		}
		return b.route(i, mtu)
	})
}

// wireguardSettings is a request of WireGuard's cross-platform user-space API.
func wireguardSettings(own *ecdh.PrivateKey, other *ecdh.PublicKey, host int) string {
	return strings.Join([]string{
		"set=1",
		"private_key=" + hex.EncodeToString(own.Bytes()),
		fmt.Sprintf("listen_port=%d", wireguardPort),
		"replace_peers=true",
		"public_key=" + hex.EncodeToString(other.Bytes()),
		fmt.Sprintf("endpoint=%s:%d", hostAddr(host), wireguardPort),
		"allowed_ip=" + subnet(host).String(),
	}, "\n") + "\n\n"
}

// configureWireGuard tells a daemon its settings over the socket that it has in
// its own view of /run.
func configureWireGuard(ctx context.Context, pid int, settings string) error {
	path := fmt.Sprintf("/proc/%d/root/run/wireguard/%s.sock", pid, device)
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	var conn net.Conn
	err := lab.Poll(ctx, pollTime, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", path)
		return err
	})
	if err != nil {
		return fmt.Errorf("reach wireguard-go: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(readyTime))
	if _, err := io.WriteString(conn, settings); err != nil {
		return fmt.Errorf("configure wireguard-go: %w", err)
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	if err != nil {
		return fmt.Errorf("configure wireguard-go: %w", err)
	}
	if got := strings.TrimSpace(string(answer[:n])); got != "errno=0" {
		return fmt.Errorf("configure wireguard-go: it says %q", got)
	}
	return nil
}
