package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// bench is one run.
type bench struct {
	kit      *kit
	variants []variant // that are there
	out      io.Writer // for people
	results  *results
}

// newBench looks which of the chosen variants there are.
func newBench(ctx context.Context, k *kit, chosen []variant, s settings, out io.Writer) *bench {
	b := &bench{kit: k, out: out, results: newResults(s)}
	for _, v := range chosen {
		limited, cancel := context.WithTimeout(ctx, findTime)
		version, err := v.find(limited, k)
		cancel()
		e := entry{Name: v.name, Title: v.title, Kind: v.kind, Secret: v.secret, Layer: v.layer, Version: version}
		if err != nil {
			e.Missing = err.Error()
			fmt.Fprintf(out, "%-16s is left out: %v\n", v.name, err)
		} else {
			b.variants = append(b.variants, v)
		}
		b.results.Variants = append(b.results.Variants, e)
	}
	return b
}

// run measures; what there is when ctx ends stays in results.
func (b *bench) run(ctx context.Context) error {
	if len(b.variants) == 0 {
		return errors.New("none of the chosen variants is available")
	}
	s := b.results.Settings
	start := time.Now()
	defer func() { b.results.Took = time.Since(start).Round(time.Second).String() }()
	for round := 1; round <= s.Rounds && ctx.Err() == nil; round++ {
		fmt.Fprintf(b.out, "\nround %d of %d, %v since the start\n", round, s.Rounds, time.Since(start).Round(time.Second))
		order := slices.Clone(b.variants)
		if round%2 == 0 { // whoever came first comes last
			slices.Reverse(order)
		}
		for _, v := range order {
			b.session(ctx, v, round, normal)
		}
		if !s.wants(mJumbo) || round > s.Wide {
			continue
		}
		fmt.Fprintf(b.out, "MTU %d\n", jumbo)
		for _, v := range order {
			b.session(ctx, v, round, jumbo)
		}
	}
	if s.wants(mMemory) {
		b.fourHosts(ctx)
	}
	return ctx.Err()
}

// session sets a variant up, measures all that this round wants, and removes it.
func (b *bench) session(ctx context.Context, v variant, round, mtu int) {
	if ctx.Err() != nil {
		return
	}
	begin := time.Now()
	base := sample{Round: round, Variant: v.name, Underlay: onVeth, MTU: mtu}
	err := b.onBed(ctx, v, 2, mtu, func(bed *bed) error {
		if mtu == jumbo {
			b.jumboSession(ctx, bed, base)
		} else {
			b.normalSession(ctx, bed, base)
		}
		return nil
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		base.Measure = "setup"
		b.note(base, nil, err)
	}
	b.progress(v, round, mtu, time.Since(begin))
}

// onBed calls f with a variant that carries packets.
func (b *bench) onBed(ctx context.Context, v variant, hosts, mtu int, f func(*bed) error) (err error) {
	bed, err := newBed(fmt.Sprintf("%s%d", labPrefix, os.Getpid()), hosts, mtu)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.close()) }()
	if err := v.up(ctx, b.kit, bed); err != nil {
		return err
	}
	if err := bed.ready(ctx); err != nil {
		return err
	}
	return f(bed)
}

func (b *bench) normalSession(ctx context.Context, bed *bed, base sample) {
	s := b.results.Settings
	todo := core
	if base.Round <= s.Wide {
		todo = slices.Concat(core, wide)
	}
	for _, m := range todo {
		if s.wants(m.name) {
			base.Measure = m.name
			b.measure(ctx, bed, base, m.f)
		}
	}
	if s.wants(mMemory) {
		base.Measure = mMemory
		b.measure(ctx, bed, base, measureMemory)
	}
	if s.wants(mWire) {
		b.over(ctx, bed, base, onWire)
	}
	if s.wants(mNoGRO) && base.Round <= s.Wide {
		b.over(ctx, bed, base, onWireNoGRO)
	}
}

func (b *bench) jumboSession(ctx context.Context, bed *bed, base sample) {
	base.Measure = mTCP
	b.measure(ctx, bed, base, stream())
	b.over(ctx, bed, base, onWire)
}

// over measures one TCP stream on another underlay.
func (b *bench) over(ctx context.Context, bed *bed, base sample, underlay string) {
	base.Measure, base.Underlay = mTCP, underlay
	if err := bed.setUnderlay(underlay); err != nil {
		b.note(base, nil, err)
		return
	}
	b.measure(ctx, bed, base, stream())
}

func measureMemory(_ context.Context, b *bed, _ settings) (values, error) {
	u, err := b.usage()
	if err != nil || u.rss == 0 {
		return values{}, err
	}
	return values{vRSS: float64(u.rss)}, nil
}

func (b *bench) measure(ctx context.Context, bed *bed, base sample, f measureFunc) {
	if ctx.Err() != nil {
		return
	}
	v, err := f(ctx, bed, b.results.Settings)
	if ctx.Err() == nil { // else it was cut short
		b.note(base, v, err)
	}
}

func (b *bench) note(s sample, v values, err error) {
	s.Values = v
	if err != nil {
		s.Error = err.Error()
	}
	b.results.Samples = append(b.results.Samples, s)
}

// fourHosts measures the memory of daemons with three peers each, after traffic
// from one to all others.
func (b *bench) fourHosts(ctx context.Context) {
	for _, v := range b.variants {
		if v.kind != meshd || ctx.Err() != nil {
			continue
		}
		if v.name != punchName && v.name != sleeveName {
			continue
		}
		base := sample{Round: 1, Variant: v.name, Measure: mMemory, Underlay: onVeth, MTU: normal}
		var found values
		err := b.onBed(ctx, v, 4, normal, func(bed *bed) error {
			for to := 1; to < len(bed.boxes); to++ {
				if _, err := bed.iperf(ctx, to, b.results.Settings.Time); err != nil {
					return err
				}
			}
			u, err := bed.usage()
			found = values{vRSS4: float64(u.rss)}
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			err = fmt.Errorf("four hosts: %w", err)
		}
		b.note(base, found, err)
		fmt.Fprintf(b.out, "%-16s four hosts: largest daemon %s MB\n", v.name, b.results.cell(of(v.name, mMemory, vRSS4), 1e-6, 1))
	}
}
