package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results is all that a run found; the JSON file is this.
type results struct {
	Date     time.Time `json:"date"`
	Kernel   string    `json:"kernel"`
	CPU      string    `json:"cpu"`
	CPUs     int       `json:"cpus"`
	Go       string    `json:"go"`
	Load     string    `json:"load_average"` // of 1, 5 and 15 minutes before the run
	Settings settings  `json:"settings"`
	Took     string    `json:"took"`
	Variants []entry   `json:"variants"`
	Samples  []sample  `json:"samples"`
}

// entry is a variant of the run.
type entry struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Kind    kind   `json:"kind"`
	Secret  bool   `json:"encrypted"`
	Layer   int    `json:"layer"`
	Version string `json:"version,omitempty"`
	Missing string `json:"missing,omitempty"` // why it was not measured
}

// sample is one measurement.
type sample struct {
	Round    int                `json:"round"`
	Variant  string             `json:"variant"`
	Measure  string             `json:"measure"`
	Underlay string             `json:"underlay"` // veth, wire, wire-nogro
	MTU      int                `json:"mtu"`      // of the underlay
	Values   map[string]float64 `json:"values,omitempty"`
	Error    string             `json:"error,omitempty"`
}

const (
	onVeth      = "veth"       // packets of up to 64 KiB cross the underlay whole
	onWire      = "wire"       // packets of the underlay's MTU at most, joined by the receiving kernel
	onWireNoGRO = "wire-nogro" // the same, not joined

	normal = 1500 // MTU of the underlay, bytes
	jumbo  = 9000
)

// query names one value of the samples.
type query struct {
	variant, measure, value string
	underlay                string
	mtu                     int
}

// of is a query on the default underlay.
func of(variant, measure, value string) query {
	return query{variant, measure, value, onVeth, normal}
}

// over is the same query on another underlay.
func (q query) over(underlay string, mtu int) query {
	q.underlay, q.mtu = underlay, mtu
	return q
}

// rounds finds a value in each round that has it.
func (r *results) rounds(q query) map[int]float64 {
	out := map[int]float64{}
	for _, s := range r.Samples {
		if s.Variant != q.variant || s.Measure != q.measure || s.Underlay != q.underlay || s.MTU != q.mtu {
			continue
		}
		if v, ok := s.Values[q.value]; ok {
			out[s.Round] = v
		}
	}
	return out
}

// median is the median over the rounds; ok is false without any.
func (r *results) median(q query) (v float64, ok bool) {
	var all []float64
	for _, v := range r.rounds(q) {
		all = append(all, v)
	}
	return median(all), len(all) > 0
}

// ratio is the median of each round's own ratio; ok is false where no round has
// both.
func (r *results) ratio(a, b query) (v float64, ok bool) {
	var all []float64
	below := r.rounds(b)
	for round, v := range r.rounds(a) {
		if w, ok := below[round]; ok && w > 0 {
			all = append(all, v/w)
		}
	}
	return median(all), len(all) > 0
}

// entry finds a variant of the run.
func (r *results) entry(name string) (entry, bool) {
	i := slices.IndexFunc(r.Variants, func(e entry) bool { return e.Name == name })
	if i < 0 {
		return entry{}, false
	}
	return r.Variants[i], true
}

// why tells why there is no sample of a variant.
func (r *results) why(name string) string {
	if e, _ := r.entry(name); e.Missing != "" {
		return name + ": " + e.Missing
	}
	for _, s := range r.Samples {
		if s.Variant == name && s.Error != "" {
			return name + ": " + s.Error
		}
	}
	return name + " was not measured so"
}

// faults lists what went wrong, each once.
func (r *results) faults() (out []string) {
	for _, s := range r.Samples {
		if s.Error == "" {
			continue
		}
		line := fmt.Sprintf("%s, %s over %s with MTU %d: %s", s.Variant, s.Measure, s.Underlay, s.MTU, s.Error)
		if !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

// newResults notes what the machine is.
func newResults(s settings) *results {
	version, _ := kernelVersion(context.Background(), nil)
	info, _ := os.ReadFile("/proc/cpuinfo")
	load, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(load))
	return &results{
		Load: strings.Join(fields[:min(3, len(fields))], " "),
		Date: time.Now().UTC().Truncate(time.Second), Kernel: version,
		CPU: cpuModel(string(info)), CPUs: runtime.NumCPU(), Go: runtime.Version(), Settings: s,
	}
}

// cpuModel finds the processor's name in proc_cpuinfo(5).
func cpuModel(info string) string {
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func readResults(path string) (*results, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &results{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// encode is the JSON file's content: a line per sample.
func (r *results) encode() ([]byte, error) {
	samples := r.Samples
	head := *r
	head.Samples = nil
	b, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, s := range samples {
		line, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		lines = append(lines, "    "+string(line))
	}
	list := "[]"
	if len(lines) > 0 {
		list = "[\n" + strings.Join(lines, ",\n") + "\n  ]"
	}
	return []byte(strings.Replace(string(b), `"samples": null`, `"samples": `+list, 1) + "\n"), nil
}
