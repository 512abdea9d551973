package dashboard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// The moments of the two scrapes.
var (
	began = time.Unix(1_700_000_000, 0)
	ended = began.Add(time.Minute)
)

// store is what Prometheus would have of some daemons after two scrapes.
type store struct {
	series []storage.Series
	names  map[string]map[string]bool // labels of each metric
	engine *promql.Engine
	parser parser.Parser
}

// value is a sample of a series.
type value struct {
	at time.Time
	v  float64
}

func (v value) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (v value) ST() int64                     { return 0 }
func (v value) T() int64                      { return v.at.UnixMilli() }
func (v value) F() float64                    { return v.v }
func (v value) H() *histogram.Histogram       { return nil }
func (v value) FH() *histogram.FloatHistogram { return nil }
func (v value) Copy() chunks.Sample           { return v }

// scrapes asks cmd/meshd for what it exports and returns the folder with it.
func scrapes(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^TestScrapes$", "./cmd/meshd", "-scrapes", dir)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return dir
}

// load makes a store of daemons that all export the same, as instances of one job.
func load(t *testing.T, dir, name string) *store {
	t.Helper()
	p := parser.NewParser(parser.Options{})
	s := &store{
		names: map[string]map[string]bool{}, parser: p,
		engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: p}),
	}
	for _, instance := range []string{"weave01:6784", "weave02:6784"} {
		values := map[string][]chunks.Sample{}
		sets := map[string]labels.Labels{}
		for i, at := range []time.Time{began, ended} {
			data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%s-%d.txt", name, i)))
			if err != nil {
				t.Fatal(err)
			}
			err = parse(data, func(l labels.Labels, v float64) {
				b := labels.NewBuilder(l)
				b.Set("instance", instance)
				b.Set("job", "meshd")
				l = b.Labels()
				sets[l.String()] = l
				values[l.String()] = append(values[l.String()], value{at, v})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for key, l := range sets {
			s.add(l, values[key])
		}
	}
	return s
}

func (s *store) add(l labels.Labels, values []chunks.Sample) {
	s.series = append(s.series, storage.NewListSeries(l, values))
	has := s.names[l.Get(labels.MetricName)]
	if has == nil {
		has = map[string]bool{}
		s.names[l.Get(labels.MetricName)] = has
	}
	l.Range(func(l labels.Label) { has[l.Name] = has[l.Name] || l.Value != "" })
}

// parse reads Prometheus' text format.
func parse(data []byte, each func(labels.Labels, float64)) error {
	p, err := textparse.New(data, "text/plain; version=0.0.4", nil, textparse.ParserOptions{})
	if err != nil {
		return err
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry == textparse.EntrySeries {
			var l labels.Labels
			p.Labels(&l)
			_, _, v := p.Series()
			each(l, v)
		}
	}
}

// sel returns the series that match.
func (s *store) sel(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &seriesSet{}
	for _, x := range s.series {
		matches := true
		for _, m := range matchers {
			matches = matches && m.Matches(x.Labels().Get(m.Name))
		}
		if matches {
			set.series = append(set.series, x)
		}
	}
	return set
}

// run evaluates an expression at the end.
func (s *store) run(ctx context.Context, query string) (promql.Vector, error) {
	queryable := &storage.MockQueryable{MockQuerier: &storage.MockQuerier{SelectMockFunction: s.sel}}
	q, err := s.engine.NewInstantQuery(ctx, queryable, nil, query, ended)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	r := q.Exec(ctx)
	if r.Err != nil {
		return nil, r.Err
	}
	v, err := r.Vector()
	if err != nil {
		return nil, err
	}
	// A sample that is no number shows nothing. Samples are the query's: keep copies.
	out := promql.Vector{}
	for _, x := range v {
		if !math.IsNaN(x.F) {
			out = append(out, x)
		}
	}
	return out, nil
}
