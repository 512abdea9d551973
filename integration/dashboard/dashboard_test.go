package dashboard

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql"
	"go.yaml.in/yaml/v3"
)

// board is what is looked at of a Grafana dashboard.
type board struct {
	UID        string  `json:"uid"`
	Title      string  `json:"title"`
	Panels     []panel `json:"panels"`
	Templating struct {
		List []struct {
			Name  string          `json:"name"`
			Type  string          `json:"type"`
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID         int        `json:"id"`
	Type       string     `json:"type"`
	Title      string     `json:"title"`
	Datasource datasource `json:"datasource"`
	GridPos    struct {
		H, W, X, Y int
	} `json:"gridPos"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		Expr   string `json:"expr"`
		Legend string `json:"legendFormat"`
	} `json:"targets"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

func readBoard(t *testing.T) board {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "grafana-dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var b board
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// rules is docs/alerts.yml.
type rules struct {
	Groups []struct {
		Rules []struct {
			Alert       string            `yaml:"alert"`
			Expr        string            `yaml:"expr"`
			For         string            `yaml:"for"`
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"rules"`
	} `yaml:"groups"`
}

// Every query of the dashboard finds something while everything happens that can,
// and only what meshd exports is asked for.
func TestQueries(t *testing.T) {
	s := load(t, scrapes(t), "harmed")
	b := readBoard(t)
	for _, p := range b.Panels {
		t.Run(p.Title, func(t *testing.T) {
			if p.Type != "row" && len(p.Targets) == 0 {
				t.Error("the panel asks for nothing")
			}
			for _, q := range p.Targets {
				v, err := s.check(t.Context(), q.Expr)
				if err != nil {
					t.Error(err)
					continue
				}
				if err := checkLegend(q.Legend, v); err != nil {
					t.Error(err)
				}
				// Of the process there is no telling how much it does between scrapes.
				if strings.Contains(q.Expr, "rate(meshd_") && !slices.ContainsFunc(v, func(x promql.Sample) bool { return x.F > 0 }) {
					t.Errorf("%s: nothing moves", q.Expr)
				}
			}
		})
	}
}

var labelValues = regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`)

// The variables have values, and queries use no other variables.
func TestVariables(t *testing.T) {
	s := load(t, scrapes(t), "well")
	var names []string
	for _, v := range readBoard(t).Templating.List {
		names = append(names, v.Name)
		if v.Type != "query" {
			continue
		}
		var query string
		if json.Unmarshal(v.Query, &query) != nil {
			t.Errorf("%s: the query is no text: %s", v.Name, v.Query)
		}
		m := labelValues.FindStringSubmatch(query)
		if m == nil {
			t.Errorf("%s: %q is not understood here", v.Name, query)
			continue
		}
		if result, err := s.check(t.Context(), m[1]); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		} else if err := checkLegend("{{"+m[2]+"}}", result); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	if want := []string{"datasource", "instance", "neighbour"}; !slices.Equal(names, want) {
		t.Errorf("variables %v, want %v", names, want)
	}
}

// Grafana shows panels where they say they are: in rows, none over another, each
// with a unit and the data source that was chosen.
func TestPanels(t *testing.T) {
	b := readBoard(t)
	ids := map[int]bool{}
	var rows []string
	for i, p := range b.Panels {
		if ids[p.ID] {
			t.Errorf("%s: id %d is there twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if p.Datasource != (datasource{"prometheus", "${datasource}"}) || p.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%s: data source %v, unit %q", p.Title, p.Datasource, p.FieldConfig.Defaults.Unit)
		}
		g := p.GridPos
		for _, q := range b.Panels[:i] {
			o := q.GridPos
			if g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H {
				t.Errorf("%s lies over %s", p.Title, q.Title)
			}
		}
		if g.X+g.W > 24 || g.W == 0 || g.H == 0 {
			t.Errorf("%s lies at %+v", p.Title, g)
		}
	}
	if want := []string{"Mesh", "Neighbours", "Paths by transport", "Drops", "Forwarder and port", "Process"}; !slices.Equal(rows, want) {
		t.Errorf("rows %v, want %v", rows, want)
	}
}

// Every alert fires where about everything is wrong and none where all is well.
func TestAlerts(t *testing.T) {
	dir := scrapes(t)
	well, harmed := load(t, dir, "well"), load(t, dir, "harmed")
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var r rules
	if err := yaml.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range r.Groups {
		for _, a := range g.Rules {
			n++
			t.Run(a.Alert, func(t *testing.T) {
				if a.For == "" || a.Labels["severity"] == "" || a.Annotations["summary"] == "" {
					t.Errorf("the rule lacks a time, a severity or a summary: %+v", a)
				}
				v, err := harmed.check(t.Context(), a.Expr)
				if err != nil {
					t.Error(err)
				}
				if err := checkLegend(strings.ReplaceAll(a.Annotations["summary"], "$labels.", ""), v); err != nil {
					t.Error(err)
				}
				if v, err := well.run(t.Context(), a.Expr); err != nil || len(v) > 0 {
					t.Errorf("fires where all is well: %v, %v", v, err)
				}
			})
		}
	}
	if n < 5 {
		t.Errorf("%d alerts", n)
	}
}

// The checks find what they are there for.
func TestWrongQueriesAreFound(t *testing.T) {
	s := load(t, scrapes(t), "harmed")
	for query, want := range map[string]string{
		`meshd_path_up`: "",
		`sum by (transport) (rate(meshd_path_bytes_total[$__rate_interval]))`:                           "",
		`meshd_path_up * on (instance, peer) group_left (kind) meshd_neighbour_connected_since_seconds`: "",
		`meshd_path_upp`:                            `does not export "meshd_path_upp"`,
		`meshd_path_up{carrier="tcp"}`:              "no label carrier",
		`meshd_path_up{carrier!="tcp"}`:             "no label carrier",
		`meshd_path_up{transport="carrier pigeon"}`: "finds nothing",
		`sum by (carrier) (meshd_path_up)`:          "has a label carrier",
		`meshd_path_up * on (carrier) meshd_info`:   "has a label carrier",
		`meshd_path_up or meshd_nothing`:            "does not export",
		`meshd_path_up * on (instance, peer) group_left (colour) meshd_neighbour_connected_since_seconds`: "has a label colour",
		`meshd_path_up * on (peer) meshd_neighbour_connected_since_seconds`:                               "many",
		`meshd_path_rtt_seconds > 1e9`:      "finds nothing",
		`rate(meshd_path_bytes_total[10s])`: "finds nothing",
		`meshd_path_up{peer=~"$peer"}`:      "unknown variable",
		`sum(meshd_path_up`:                 "parse error",
		`0 * meshd_path_loss_ratio / 0`:     "finds nothing",
	} {
		_, err := s.check(t.Context(), query)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want an error with %q", query, err, want)
		}
	}
	v, err := s.check(t.Context(), `sum by (peer) (meshd_path_up)`)
	if err != nil || checkLegend("{{peer}}", v) != nil || checkLegend("to {{nickname}}", v) == nil {
		t.Errorf("legends: %v, %v", v, err)
	}
}
