package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"
)

const (
	openVPNOverhead = 100 // bytes, on the safe side
	openVPNPort     = 1194
)

// openVPN carries frames between two hosts that know each other's certificate.
func openVPN() variant {
	return variant{
		name: "openvpn", title: "openvpn AES-256-GCM", kind: others, secret: true, layer: 2,
		find: func(ctx context.Context, _ *kit) (string, error) {
			line, err := firstLine(ctx, "OpenVPN", "openvpn", "--version")
			fields := strings.Fields(line)
			return strings.Join(fields[:min(2, len(fields))], " "), err
		},
		up: upOpenVPN,
	}
}

func upOpenVPN(ctx context.Context, _ *kit, b *bed) error {
	if len(b.hosts) != 2 {
		return errTwoHosts
	}
	path, err := findProgram("openvpn")
	if err != nil {
		return err
	}
	var prints [2]string
	for i := range b.hosts {
		var cert, key string
		if cert, key, prints[i], err = selfSigned(fmt.Sprintf("host%d", i)); err != nil {
			return err
		}
		if err := b.write(i, "cert.pem", cert); err != nil {
			return err
		}
		if err := b.write(i, "key.pem", key); err != nil {
			return err
		}
	}
	mtu := b.mtu - openVPNOverhead
	return b.each(func(i int) error {
		role := []string{"--tls-server", "--dh", "none"}
		if i > 0 {
			role = []string{"--tls-client"}
		}
		args := append(role,
			"--dev", device, "--dev-type", "tap", "--proto", "udp4",
			"--local", hostAddr(i).String(), "--remote", hostAddr(1-i).String(), "--port", strconv.Itoa(openVPNPort),
			"--cert", b.file(i, "cert.pem"), "--key", b.file(i, "key.pem"), "--peer-fingerprint", prints[1-i],
			"--data-ciphers", "AES-256-GCM", "--tun-mtu", strconv.Itoa(mtu), "--mssfix", "0",
			"--ping", "5", "--ping-restart", "60", "--verb", "2")
		if err := b.start(i, path, args); err != nil {
			return err
		}
		return b.bridge(ctx, i, device, mtu)
	})
}

// selfSigned makes a certificate and tells its SHA-256 fingerprint.
func selfSigned(name string) (cert, key, fingerprint string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", "", err
	}
	hash := sha256.Sum256(der)
	fingerprint = strings.TrimSuffix(strings.ReplaceAll(fmt.Sprintf("% X", hash), " ", ":"), ":")
	return pemText("CERTIFICATE", der), pemText("PRIVATE KEY", secret), fingerprint, nil
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
