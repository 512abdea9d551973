package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"meshd/internal/lab/peer"
)

const (
	// soakDefault are the variants that carry the traffic unless others are chosen.
	soakDefault = punchName + "," + sleeveName
	// soakReport is how often a soak tells how it goes.
	soakReport = 10 * time.Second
	// stallTime is how long a stream may stand still.
	stallTime = 30 * time.Second
	// drainTime is how long daemons may take to come to rest afterwards.
	drainTime = 20 * time.Second
	// What a daemon may use more than when the traffic had warmed it up.
	moreGoroutines = 5
	moreHeap       = 8 << 20  // bytes
	moreRSS        = 16 << 20 // bytes
)

// soakAll carries checked traffic through all chosen variants at once.
func soakAll(ctx context.Context, k *kit, o options, out io.Writer) error {
	if o.only == "" {
		o.only = soakDefault
	}
	chosen, err := choose(variants(), o.only)
	if err != nil {
		return err
	}
	b := newBench(ctx, k, chosen, o.settings, out)
	if len(b.variants) == 0 {
		return errors.New("none of the chosen variants is available")
	}
	var mu sync.Mutex // guards out and errs
	var errs []error
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, v := range b.variants {
		s := &soak{bench: b, variant: v, prefix: fmt.Sprintf("%s%d-%d", labPrefix, os.Getpid(), i), time: o.soak}
		s.say = func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(out, "%s  %-10s %s\n", time.Now().Format(time.TimeOnly), v.name, fmt.Sprintf(format, args...))
		}
		all.Go(func() {
			if err := s.run(ctx); err != nil {
				cancel() // one fault is enough
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", v.name, err))
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// soak is checked traffic through one variant.
type soak struct {
	bench   *bench
	variant variant
	prefix  string
	time    time.Duration
	say     func(format string, args ...any)

	bed     *bed
	streams []*flow
}

func (s *soak) run(ctx context.Context) (err error) {
	if s.bed, err = newBed(s.prefix, 2, normal); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.bed.close()) }()
	if err := s.variant.up(ctx, s.bench.kit, s.bed); err != nil {
		return err
	}
	if err := s.bed.ready(ctx); err != nil {
		return err
	}
	idle, err := s.usage(ctx)
	if err != nil {
		return err
	}
	warm, err := s.traffic(ctx)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.compare(ctx, idle, warm)
}

// traffic runs all streams for the soak's time and returns what the daemons used
// when a fifth of it, at most a minute, was over.
func (s *soak) traffic(ctx context.Context) (warm []peer.Usage, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.time)
	defer cancel()
	s.streams = soakFlows(s.bed)
	faults := make(chan error, len(s.streams)) // one each at most
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, f := range s.streams {
		running.Go(func() {
			// What ends because the time is over is no fault.
			if err := f.run(ctx); err != nil && ctx.Err() == nil {
				faults <- fmt.Errorf("%s: %w", f.name, err)
			}
		})
	}
	report := time.NewTicker(soakReport)
	defer report.Stop()
	warmed := time.After(min(s.time/5, time.Minute))
	for {
		select {
		case err := <-faults:
			return nil, err
		case <-warmed:
			if warm, err = s.usage(ctx); err != nil {
				return nil, err
			}
		case <-report.C:
			if err := s.tell(ctx); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return warm, s.finish(context.WithoutCancel(ctx), faults)
		}
	}
}

// finish tells what was carried: something on each stream, over the transport
// that is meant, and nothing with a wrong checksum.
func (s *soak) finish(ctx context.Context, faults <-chan error) error {
	select {
	case err := <-faults:
		return err
	default:
	}
	var errs []error
	for _, f := range s.streams {
		s.say("%v", f)
		if f.checked.Load() == 0 {
			errs = append(errs, fmt.Errorf("%s: nothing was carried and checked", f.name))
		}
	}
	if s.variant.holds != nil {
		errs = append(errs, s.variant.holds(ctx, s.bed))
	}
	return errors.Join(append(errs, s.checksums())...)
}

// checksums finds packets that the boxes' kernels dropped for their checksum:
// something on the way had changed them.
func (s *soak) checksums() error {
	for i, box := range s.bed.boxes {
		var table []byte
		err := box.Do(func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/snmp")
			return err
		})
		if err != nil {
			return err
		}
		if n := checksumErrors(string(table)); n > 0 {
			return fmt.Errorf("%w: box%d dropped %d packets with a wrong checksum", errDiffers, i, n)
		}
	}
	return nil
}

// checksumErrors adds up InCsumErrors of all protocols in a table of
// proc_pid_net(5): lines of names, each followed by one of values.
func checksumErrors(table string) (sum uint64) {
	lines := strings.Split(table, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j, name := range names[:min(len(names), len(values))] {
			if name == "InCsumErrors" {
				n, _ := strconv.ParseUint(values[j], 10, 64)
				sum += n
			}
		}
	}
	return sum
}

// tell prints how it goes, and finds streams that stand still.
func (s *soak) tell(ctx context.Context) error {
	var parts []string
	for _, f := range s.streams {
		parts = append(parts, f.String())
		if idle := f.idle(time.Now()); idle > stallTime {
			return fmt.Errorf("%s stands still for %v", f.name, idle.Round(time.Second))
		}
	}
	used, err := s.usage(ctx)
	if err != nil {
		return err
	}
	for _, u := range used {
		parts = append(parts, usageText(u))
	}
	s.say("%s", strings.Join(parts, "; "))
	return nil
}

// usage is what each daemon uses; of daemons other than meshd that is unknown.
func (s *soak) usage(ctx context.Context) (out []peer.Usage, err error) {
	for _, p := range s.bed.peers {
		u, err := p.Usage(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return out, nil // the time is over in the middle of it
			}
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

func usageText(u peer.Usage) string {
	return fmt.Sprintf("%d goroutines, heap %.1f MB, RSS %.1f MB", u.Goroutines, float64(u.Heap)/1e6, float64(u.RSS)/1e6)
}

// compare waits until the daemons use no more goroutines than before the
// traffic, and no more memory than when they were warm.
func (s *soak) compare(ctx context.Context, idle, warm []peer.Usage) error {
	if len(warm) < len(idle) {
		return errors.New("the daemons could not be asked when they were warm")
	}
	deadline := time.Now().Add(drainTime)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		now, err := s.usage(ctx)
		if err != nil {
			return err
		}
		grown := growth(idle, warm, now)
		if len(grown) == 0 {
			for i, u := range now {
				s.say("host%d at the end: %s; warm: %s", i, usageText(u), usageText(warm[i]))
			}
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New(strings.Join(grown, "; "))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// growth names what a daemon uses too much of.
func growth(idle, warm, now []peer.Usage) (out []string) {
	for i := range min(len(idle), len(warm), len(now)) {
		for _, g := range []struct {
			what           string
			was, is, spare int64
		}{
			{"goroutines", int64(idle[i].Goroutines), int64(now[i].Goroutines), moreGoroutines},
			{"bytes of heap", warm[i].Heap, now[i].Heap, moreHeap},
			{"bytes of RSS", warm[i].RSS, now[i].RSS, moreRSS},
		} {
			if g.is > g.was+g.spare {
				out = append(out, fmt.Sprintf("host%d grew from %d to %d %s", i, g.was, g.is, g.what))
			}
		}
	}
	return out
}

// soakFlows are the streams of one soak: files there over IPv4 and back over
// IPv6, a stream to keep the path full in each direction, and datagrams of all
// sizes.
func soakFlows(b *bed) []*flow {
	six := func(box int) netip.Addr {
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 15: byte(box + 1)})
	}
	there := []end{{b.boxes[0], b.addrs[0]}, {b.boxes[1], b.addrs[1]}}
	back6 := []end{{b.boxes[1], six(1)}, {b.boxes[0], six(0)}}
	back := []end{there[1], there[0]}
	return []*flow{
		newFlow("files there", there, files),
		newFlow("files back over IPv6", back6, files),
		newFlow("load there", there, pattern),
		newFlow("load back", back, pattern),
		newFlow("datagrams there", there, datagrams),
		newFlow("datagrams back", back, datagrams),
	}
}
