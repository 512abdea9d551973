package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"meshd/internal/lab"
)

const (
	iperfPort = 5201
	// iperfGrace is how much longer than its time an iperf3 may take.
	iperfGrace = 15 * time.Second
)

// throughput is what iperf3 found, both directions together.
type throughput struct {
	bps         float64 // received bits per second
	bytes       float64 // received
	retransmits float64
}

// iperfReport is what we need of iperf3's --json.
type iperfReport struct {
	Error string `json:"error"`
	End   struct {
		Sent        iperfSum `json:"sum_sent"`
		Received    iperfSum `json:"sum_received"`
		ReverseSent iperfSum `json:"sum_sent_bidir_reverse"`
		Reverse     iperfSum `json:"sum_received_bidir_reverse"`
	} `json:"end"`
}

type iperfSum struct {
	Bytes       float64 `json:"bytes"`
	BPS         float64 `json:"bits_per_second"`
	Retransmits float64 `json:"retransmits"`
}

// parseIperf reads the output of iperf3 --json, warnings before it included.
func parseIperf(out []byte) (throughput, error) {
	i := bytes.IndexByte(out, '{')
	if i < 0 {
		return throughput{}, fmt.Errorf("iperf3: %.200q", out)
	}
	var r iperfReport
	if err := json.NewDecoder(bytes.NewReader(out[i:])).Decode(&r); err != nil {
		return throughput{}, fmt.Errorf("iperf3: %w", err)
	}
	if r.Error != "" {
		return throughput{}, fmt.Errorf("iperf3: %s", r.Error)
	}
	t := throughput{
		bps:         r.End.Received.BPS + r.End.Reverse.BPS,
		bytes:       r.End.Received.Bytes + r.End.Reverse.Bytes,
		retransmits: r.End.Sent.Retransmits + r.End.ReverseSent.Retransmits,
	}
	if !(t.bytes > 0) || !(t.bps > 0) {
		return throughput{}, errors.New("iperf3: nothing was received")
	}
	return t, nil
}

// iperfPath finds iperf3.
func iperfPath() (string, error) { return findProgram("iperf3") }

// findProgram looks where root's programs are, too.
func findProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// serve starts an iperf3 server in a box, once.
func (b *bed) serve(ctx context.Context, box int) error {
	if b.served[box] {
		return nil
	}
	path, err := iperfPath()
	if err != nil {
		return err
	}
	p, err := b.boxes[box].Start(lab.Command{
		Path: path, Args: []string{"-s", "-p", strconv.Itoa(iperfPort)},
		Log: filepath.Join(b.lab.Dir(), fmt.Sprintf("iperf-server%d", box)),
	})
	if err != nil {
		return err
	}
	b.served[box] = true
	ctx, cancel := context.WithTimeout(ctx, iperfGrace)
	defer cancel()
	return lab.Poll(ctx, pollTime, func() error {
		for _, table := range []string{"tcp", "tcp6"} {
			sockets, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.PID(), table))
			if listens(string(sockets), iperfPort) {
				return nil
			}
		}
		return fmt.Errorf("iperf3 does not listen in box%d", box)
	})
}

// listens looks for a listening socket in a table of proc_pid_net(5).
func listens(table string, port int) bool {
	local, listening := fmt.Sprintf(":%04X", port), "0A"
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], local) && f[3] == listening {
			return true
		}
	}
	return false
}

// iperf sends from the first box to another one for d, in whole seconds, with
// further arguments such as -P 4.
func (b *bed) iperf(ctx context.Context, to int, d time.Duration, args ...string) (t throughput, err error) {
	limited, cancel := context.WithTimeout(ctx, d+iperfGrace)
	defer cancel()
	err = lab.Poll(limited, 10*pollTime, func() error {
		t, err = b.iperfOnce(ctx, to, d, args...)
		// The server takes one client at a time, and a moment to see one off.
		if err != nil && !strings.Contains(err.Error(), "server is busy") {
			err = lab.Final(err)
		}
		return err
	})
	return t, err
}

func (b *bed) iperfOnce(ctx context.Context, to int, d time.Duration, args ...string) (throughput, error) {
	p, log, err := b.startIperf(ctx, to, d, args...)
	if err != nil {
		return throughput{}, err
	}
	limit := time.NewTimer(d + iperfGrace)
	defer limit.Stop()
	select {
	case <-p.Done():
	case <-ctx.Done():
		return throughput{}, errors.Join(ctx.Err(), p.Kill())
	case <-limit.C:
		return throughput{}, errors.Join(fmt.Errorf("iperf3 did not end %v after its time", iperfGrace), p.Kill())
	}
	out, err := os.ReadFile(log)
	if err != nil {
		return throughput{}, err
	}
	return parseIperf(out)
}

// startIperf starts a client and returns the file with its report.
func (b *bed) startIperf(ctx context.Context, to int, d time.Duration, args ...string) (*lab.Process, string, error) {
	path, err := iperfPath()
	if err != nil {
		return nil, "", err
	}
	if err := b.serve(ctx, to); err != nil {
		return nil, "", err
	}
	f, err := os.CreateTemp(b.lab.Dir(), "iperf-client-")
	if err != nil {
		return nil, "", err
	}
	f.Close()
	seconds := max(1, int((d + time.Second - 1).Seconds()))
	all := append([]string{"-c", b.addrs[to].String(), "-p", strconv.Itoa(iperfPort), "-J", "-t", strconv.Itoa(seconds)}, args...)
	p, err := b.boxes[0].Start(lab.Command{Path: path, Args: all, Log: f.Name()})
	return p, f.Name(), err
}
