package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"meshd/internal/lab"
)

const (
	tincOverhead = 100 // bytes, on the safe side
	// tincSettle is how long tinc may carry everything over its TCP connection
	// before it has found that UDP passes.
	tincSettle = 8 * time.Second
)

// tinc carries frames, as a switch.
func tinc() variant {
	return variant{
		name: "tinc", title: "tinc aes-256-cbc", kind: others, secret: true, layer: 2,
		find: func(ctx context.Context, _ *kit) (string, error) {
			return firstLine(ctx, "version", "tincd", "--version")
		},
		up: upTinc,
	}
}

func upTinc(ctx context.Context, _ *kit, b *bed) error {
	if len(b.hosts) != 2 {
		return errTwoHosts
	}
	if b.mtu > normal {
		return errors.New("tinc is built for frames of at most 1518 bytes")
	}
	path, err := findProgram("tincd")
	if err != nil {
		return err
	}
	if err := tincFiles(b); err != nil {
		return err
	}
	mtu := b.mtu - tincOverhead
	err = b.each(func(i int) error {
		args := []string{"-D", "-c", b.file(i, "tinc"), "--pidfile", b.file(i, "tinc.pid")}
		if err := b.start(i, path, args); err != nil {
			return err
		}
		return b.bridge(ctx, i, device, mtu)
	})
	if err != nil {
		return err
	}
	return tincWait(ctx, b)
}

// tincFiles writes both hosts' settings and keys.
func tincFiles(b *bed) error {
	names := []string{"a", "b"}
	for i := range b.hosts {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		conf := fmt.Sprintf("Name = %s\nMode = switch\nDevice = /dev/net/tun\nDeviceType = tap\nInterface = %s\nAddressFamily = ipv4\nConnectTo = %s\n",
			names[i], device, names[1-i])
		private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
		if err := b.write(i, "tinc/tinc.conf", conf); err != nil {
			return err
		}
		if err := b.write(i, "tinc/rsa_key.priv", string(private)); err != nil {
			return err
		}
		for j := range b.hosts { // each knows both
			host := fmt.Sprintf("Address = %s\nCipher = aes-256-cbc\nDigest = sha256\n%s", hostAddr(i), public)
			if err := b.write(j, "tinc/hosts/"+names[i], host); err != nil {
				return err
			}
		}
	}
	return nil
}

// tincWait pings until tinc has had its time to find UDP.
func tincWait(ctx context.Context, b *bed) error {
	p, err := b.boxes[0].Ping(b.addrs[1], lab.PingConfig{Interval: pollTime, Payload: 1000})
	if err != nil {
		return err
	}
	defer p.Stop(0)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(tincSettle):
		return nil
	}
}
