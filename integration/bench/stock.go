package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"meshd/internal/lab"
)

const (
	// stockBridge is the bridge that a stock router makes.
	stockBridge = "weave"
	// stockPacket is what must pass between its boxes: it finds out by itself
	// what more may.
	stockPacket = 1400
	stopLimit   = 15 * time.Second
)

// stockVariants are Weave Net's own router, which we neither build nor fetch:
// STOCK_SLEEVE names a script that does
//
//	start NETNS NAME NICK DIR [FLAG or PEER...]   in a named namespace; back once it runs
//	stop DIR
func stockVariants() []variant {
	variantOf := func(name, title string, flags ...string) variant {
		return variant{
			name: name, title: title, kind: stock, secret: len(flags) > 0, layer: 2,
			find: findStock,
			up:   func(ctx context.Context, k *kit, b *bed) error { return upStock(ctx, k, b, flags) },
		}
	}
	return []variant{
		variantOf(stockName, "stock sleeve"),
		variantOf(stockPWName, "stock sleeve, password", "--password="+strings.ReplaceAll(password, " ", "-")),
	}
}

func findStock(_ context.Context, k *kit) (string, error) {
	if k.stock == "" {
		return "", errors.New("STOCK_SLEEVE names no script that starts it")
	}
	if _, err := exec.LookPath(k.stock); err != nil {
		return "", fmt.Errorf("STOCK_SLEEVE: %w", err)
	}
	return "as STOCK_SLEEVE starts it", nil
}

func upStock(ctx context.Context, k *kit, b *bed, flags []string) error {
	return b.each(func(i int) error {
		args := append([]string{
			"start", b.hosts[i].Name, fmt.Sprintf("02:00:00:00:00:%02x", i+1), fmt.Sprintf("host%d", i), b.file(i, "stock"),
		}, flags...)
		if i > 0 {
			args = append(args, hostAddr(0).String())
		}
		b.ends = append(b.ends, func() { stopStock(k, b.file(i, "stock")) })
		ctx, cancel := context.WithTimeout(ctx, readyTime)
		defer cancel()
		if err := k.runStock(ctx, args...); err != nil {
			return err
		}
		if err := b.appears(ctx, i, stockBridge); err != nil {
			return err
		}
		if err := b.attach(i, stockBridge); err != nil {
			return err
		}
		b.packet = min(b.mtu, stockPacket)
		// Weave attaches containers so: it reads frames by libpcap, without their
		// checksums' state.
		return b.boxes[i].SetFeatures(lab.ContainerLink, false, "tx-checksum-ip-generic")
	})
}

// runStock runs the script. A router that it leaves behind may keep the script's
// output open, so nobody waits for that.
func (k *kit) runStock(ctx context.Context, args ...string) error {
	var out strings.Builder
	cmd := exec.CommandContext(ctx, k.stock, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	err := cmd.Run()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s %s: %w: %.300s", k.stock, args[0], err, out.String())
	}
	return nil
}

// stopStock ends a router in order; what it leaves, the lab ends.
func stopStock(k *kit, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	k.runStock(ctx, "stop", dir)
}
