package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

// meshdVariant is a way to run meshd.
type meshdVariant struct {
	transport string
	password  bool
	offload   bool // of port and sockets, where the kernel has it
}

func meshdVariants() (out []variant) {
	for _, v := range []struct {
		name, title string
		meshdVariant
	}{
		{punchName, "meshd punch", meshdVariant{"punch", false, true}},
		{punchName + "-off", "meshd punch, offload off", meshdVariant{"punch", false, false}},
		{quicName, "meshd quic", meshdVariant{"quic", false, true}},
		{quicName + "-off", "meshd quic, offload off", meshdVariant{"quic", false, false}},
		{tcpName, "meshd tcp", meshdVariant{"tcp", false, true}},
		{sleeveName, "meshd sleeve", meshdVariant{"sleeve", false, true}},
		{sleeveName + "-off", "meshd sleeve, offload off", meshdVariant{"sleeve", false, false}},
		{sleevePWName, "meshd sleeve, password", meshdVariant{"sleeve", true, true}},
		{sleevePWName + "-off", "meshd sleeve, password, offload off", meshdVariant{"sleeve", true, false}},
	} {
		out = append(out, variant{
			name: v.name, title: v.title, kind: meshd, layer: 2,
			secret: v.password || v.transport != "sleeve",
			find:   v.find, up: v.up, holds: v.paths,
		})
	}
	return out
}

// env is what meshd is told.
func (v meshdVariant) env(mtu int) []string {
	offload := "auto"
	if !v.offload {
		offload = "off"
	}
	env := []string{
		"MESHD_TRANSPORTS=" + v.transport,
		"MESHD_TAP_OFFLOAD=" + offload, "MESHD_UDP_OFFLOAD=" + offload,
	}
	if v.password {
		env = append(env, "MESHD_PASSWORD="+password)
	}
	if mtu > 1500 {
		// The bridge's own choice fits every path, which is 1500 less headers.
		env = append(env, "MESHD_BRIDGE_MTU="+strconv.Itoa(mtu-100))
	}
	return env
}

// find asks meshd whether it knows the transport and has offloads to turn off.
func (v meshdVariant) find(ctx context.Context, k *kit) (string, error) {
	cmd := exec.CommandContext(ctx, k.meshd, "config", "show")
	cmd.Env = append(os.Environ(), v.env(1500)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("not available: %s", strings.TrimSpace(string(out)))
	}
	if !v.offload && !strings.Contains(string(out), "offload:") {
		return "", errors.New("not available: this meshd has no offloads to turn off")
	}
	version, err := exec.CommandContext(ctx, k.meshd, "version").Output()
	line, _, _ := strings.Cut(string(version), "\n")
	return strings.TrimSpace(line), err
}

func (v meshdVariant) up(ctx context.Context, k *kit, b *bed) error {
	err := b.each(func(i int) error {
		p, err := peer.New(b.hosts[i], peer.Config{
			Binary: k.meshd, Dir: b.dir(i), Name: fmt.Sprintf("02:00:00:00:00:%02x", i+1),
			NickName: fmt.Sprintf("host%d", i), Env: v.env(b.mtu),
		})
		if err != nil {
			return err
		}
		if i > 0 {
			p.Peers = []string{hostAddr(0).String()}
		}
		b.peers = append(b.peers, p)
		return p.Up()
	})
	if err != nil {
		return err
	}
	if err := v.mesh(ctx, b); err != nil {
		return err
	}
	return b.each(func(i int) error {
		if err := b.attach(i, peer.DefaultBridge); err != nil {
			return err
		}
		bridge, err := b.hosts[i].Look(peer.DefaultBridge)
		b.packet = bridge.MTU
		return err
	})
}

// mesh waits until all daemons are neighbours over the transport that is meant.
func (v meshdVariant) mesh(ctx context.Context, b *bed) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	err := lab.Poll(ctx, pollTime, func() error {
		for _, p := range b.peers {
			if _, err := p.Process(); err != nil {
				return lab.Final(fmt.Errorf("meshd has ended: %s", strings.Join(p.Tail(5), " | ")))
			}
			if err := p.Ready(ctx); err != nil {
				return err
			}
		}
		if err := peer.FullMesh(ctx, b.peers...); err != nil {
			return err
		}
		return v.paths(ctx, b)
	})
	if err != nil {
		return fmt.Errorf("meshd does not mesh over %s: %w", v.transport, err)
	}
	return nil
}

// paths is nil when the active path to every neighbour is of the transport.
func (v meshdVariant) paths(ctx context.Context, b *bed) error {
	for _, p := range b.peers {
		r, err := p.Report(ctx)
		if err != nil {
			return err
		}
		for _, o := range b.peers {
			if o == p {
				continue
			}
			c, _ := r.Active(o.Name)
			if got := activeTransport(c); got != v.transport {
				return fmt.Errorf("%s reaches %s over %q", p.NickName, o.NickName, got)
			}
		}
	}
	return nil
}

func activeTransport(c peer.Connection) string {
	for _, p := range c.Paths {
		if p.Active {
			return p.Transport
		}
	}
	return ""
}
