package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"meshd/internal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options is the command line.
type options struct {
	settings
	only, measures, out, meshd, render string
	soak                               time.Duration
}

func parseOptions(args []string, usage io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(usage)
	f.DurationVar(&o.Time, "time", 3*time.Second, "`time` of one TCP run; the other measurements are a part of it")
	f.IntVar(&o.Rounds, "rounds", 3, "`number` of rounds")
	f.IntVar(&o.Wide, "wide", 1, "`number` of rounds with four streams, both directions and MTU 9000")
	f.StringVar(&o.only, "only", "", "variants: `names`, kinds (kernel, meshd, stock, peer) and patterns; default all")
	f.StringVar(&o.measures, "measures", "", "measures: `names` out of "+strings.Join(allMeasures, ", ")+"; default all")
	f.StringVar(&o.out, "out", "dist/bench", "`directory` for benchmarks.json, benchmarks.svg and benchmarks.md")
	f.StringVar(&o.meshd, "meshd", "./meshd", "`path` of meshd")
	f.StringVar(&o.render, "render", "", "measure nothing: make the page and the chart of this JSON `file` again")
	f.DurationVar(&o.soak, "soak", 0, "carry checked traffic for this `time` instead")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err error
	o.Measures, err = parseMeasures(o.measures)
	switch {
	case err != nil:
		return o, err
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.Time < time.Second || o.Rounds < 1 || o.Wide < 0 || o.soak < 0:
		return o, errors.New("-time is at least 1s, -rounds at least 1, -wide and -soak not negative")
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parseOptions(args, out)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.render != "" {
		r, err := readResults(o.render)
		if err != nil {
			return err
		}
		fmt.Fprint(out, r.summary())
		return r.write(o.out)
	}
	k, err := prepare(o)
	if err != nil {
		return err
	}
	if o.soak > 0 {
		return soakAll(ctx, k, o, out)
	}
	return measureAll(ctx, k, o, out)
}

// prepare finds meshd and removes what killed runs left.
func prepare(o options) (*kit, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	path, err := filepath.Abs(o.meshd)
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(path); err != nil {
		return nil, fmt.Errorf("meshd: %w", err)
	}
	if _, err := lab.Sweep(labPrefix); err != nil {
		return nil, err
	}
	clearSettings()
	return &kit{meshd: path, stock: os.Getenv("STOCK_SLEEVE")}, nil
}

// clearSettings forgets the operator's own settings of meshd and of stock
// routers, which the daemons under test would take.
func clearSettings() {
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "MESHD_") || strings.HasPrefix(name, "WEAVE_") {
			os.Unsetenv(name)
		}
	}
}

func measureAll(ctx context.Context, k *kit, o options, out io.Writer) error {
	if _, err := iperfPath(); err != nil {
		return err
	}
	chosen, err := choose(variants(), o.only)
	if err != nil {
		return err
	}
	b := newBench(ctx, k, chosen, o.settings, out)
	ran := b.run(ctx)
	if len(b.results.Samples) == 0 {
		return ran
	}
	fmt.Fprint(out, b.results.summary())
	if ran != nil {
		return fmt.Errorf("ended early, nothing was written: %w", ran)
	}
	if err := b.results.write(o.out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nwritten to %s: benchmarks.md, benchmarks.json, benchmarks.svg; took %s\n", o.out, b.results.Took)
	return nil
}

// write writes the page, the chart and the data they are made of.
func (r *results) write(dir string) error {
	data, err := r.encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"benchmarks.json": string(data), "benchmarks.svg": r.chart(), "benchmarks.md": r.page(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
