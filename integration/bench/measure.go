package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"meshd/internal/lab"
)

// settings are how long and how often.
type settings struct {
	Time   time.Duration `json:"time_ns"` // of one TCP run; the rest follows from it
	Rounds int           `json:"rounds"`
	// Wide is in how many of the rounds the wide part is measured: four streams,
	// both directions, MTU 9000.
	Wide     int      `json:"wide_rounds"`
	Measures []string `json:"measures"`
}

// Measures by name.
const (
	mTCP    = "tcp"    // one TCP stream
	mTCP4   = "tcp4"   // four
	mBidir  = "bidir"  // one in each direction
	mRR     = "rr"     // TCP request and response
	mUDPRR  = "udprr"  // the same with datagrams
	mLoaded = "loaded" // TCP request and response beside a TCP stream
	mPPS    = "pps"    // small packets
	mMemory = "memory" // of a session's daemons at its end, and of four hosts
	mWire   = "wire"   // one TCP stream on the underlay without segmentation offload
	mNoGRO  = "nogro"  // the same without GRO either
	mJumbo  = "jumbo"  // one TCP stream, both underlays, MTU 9000
)

var allMeasures = []string{mTCP, mTCP4, mBidir, mRR, mUDPRR, mLoaded, mPPS, mMemory, mWire, mNoGRO, mJumbo}

// Values of samples.
const (
	vBPS         = "bps"
	vRetransmits = "retransmits"
	vDaemonCPU   = "daemon_cpu_s_per_gb"
	vMachineCPU  = "machine_cpu_s_per_gb"
	vPacket      = "underlay_bytes_per_packet"
	vP50         = "p50_us"
	vP99         = "p99_us"
	vLost        = "lost"
	vPPS         = "pps"
	vLimit       = "sender_limited" // 1: nothing was lost at the most that was offered
	vAllocs      = "allocations_per_frame"
	vRSS         = "rss_bytes"
	vRSS4        = "rss_bytes_3_peers"
)

// parseMeasures reads a comma-separated list, all for an empty one.
func parseMeasures(list string) ([]string, error) {
	if list == "" {
		return allMeasures, nil
	}
	var out []string
	for _, m := range strings.Split(list, ",") {
		m = strings.TrimSpace(m)
		if !slices.Contains(allMeasures, m) {
			return nil, fmt.Errorf("no measure %q (there are: %s)", m, strings.Join(allMeasures, ", "))
		}
		out = append(out, m)
	}
	return out, nil
}

func (s settings) wants(measure string) bool { return slices.Contains(s.Measures, measure) }

type values = map[string]float64

// measureFunc measures one thing on a bed that is ready.
type measureFunc func(ctx context.Context, b *bed, s settings) (values, error)

// core are the measurements of every round, wide those of the first ones.
var (
	core = []struct {
		name string
		f    measureFunc
	}{
		{mTCP, stream()}, {mRR, measureRR}, {mUDPRR, measureUDPRR}, {mLoaded, measureLoaded}, {mPPS, measurePPS},
	}
	wide = []struct {
		name string
		f    measureFunc
	}{
		{mTCP4, stream("-P", "4")}, {mBidir, stream("--bidir")},
	}
)

// stream measures TCP throughput and what it costs.
func stream(args ...string) measureFunc {
	return func(ctx context.Context, b *bed, s settings) (values, error) {
		before, err1 := b.usage()
		packets, err2 := b.hosts[0].Traffic(underlay)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		t, err := b.iperf(ctx, 1, s.Time, args...)
		if err != nil {
			return nil, err
		}
		after, err1 := b.usage()
		passed, err2 := b.hosts[0].Traffic(underlay)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return costs(t, before, after, passed.Sub(packets)), nil
	}
}

// costs relates what was used to what was carried, per GB of 10⁹ bytes.
func costs(t throughput, before, after usage, passed lab.Traffic) values {
	gb := t.bytes / 1e9
	v := values{
		vBPS: t.bps, vRetransmits: t.retransmits,
		vMachineCPU: (after.machine - before.machine) / gb,
	}
	if after.rss > 0 { // else there is no daemon
		v[vDaemonCPU] = (after.daemons - before.daemons) / gb
	}
	if passed.OutPackets > 0 {
		v[vPacket] = float64(passed.OutBytes) / float64(passed.OutPackets)
	}
	return v
}

func measureRR(ctx context.Context, b *bed, s settings) (values, error) {
	return latencyValues(tcpRoundTrips(ctx, b, s.Time/3))
}

func measureUDPRR(ctx context.Context, b *bed, s settings) (values, error) {
	return latencyValues(udpRoundTrips(ctx, b, s.Time/6))
}

func latencyValues(l latency, err error) (values, error) {
	if err != nil {
		return nil, err
	}
	return values{vP50: micros(l.p50), vP99: micros(l.p99), vLost: float64(l.lost)}, nil
}

// measureLoaded measures round trips beside a TCP stream of the same direction.
func measureLoaded(ctx context.Context, b *bed, s settings) (values, error) {
	before, err := b.boxes[0].Traffic(lab.ContainerLink)
	if err != nil {
		return nil, err
	}
	p, _, err := b.startIperf(ctx, 1, time.Minute) // ended below
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	flowing, cancel := context.WithTimeout(ctx, iperfGrace)
	defer cancel()
	err = lab.Poll(flowing, pollTime, func() error {
		now, err := b.boxes[0].Traffic(lab.ContainerLink)
		if err == nil && now.Sub(before).OutBytes < 1<<20 {
			err = errors.New("the load does not flow")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	v, err := latencyValues(tcpRoundTrips(ctx, b, s.Time/2))
	// In order, so that the server is free again.
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.Done():
	case <-time.After(iperfGrace):
	}
	return v, err
}

// measurePPS measures the small-packet rate.
func measurePPS(ctx context.Context, b *bed, s settings) (values, error) {
	idle, known := b.background(ctx)
	before, _ := b.allocations(ctx)
	start := time.Now()
	r, err := rampUp(ctx, b, s.Time/10)
	if err != nil {
		return nil, err
	}
	v := values{vPPS: r.best.carried(), vLimit: 0}
	if r.limited {
		v[vLimit] = 1
	}
	if after, ok := b.allocations(ctx); ok && known && r.all > 0 {
		v[vAllocs] = idle.perFrame(after-before, time.Since(start), r.all)
	}
	return v, nil
}
