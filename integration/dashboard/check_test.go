package dashboard

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// variables stand for what Grafana puts in; time ranges hold both scrapes.
var variables = strings.NewReplacer(
	"$__rate_interval", "2m", "$__range", "1h", "$instance", "weave0[12]:6784", "$neighbour", ".*",
)

// check returns an error where a query asks for what is not exported: where it, or
// a selector in it, finds nothing, or names a label that its metrics do not have.
func (s *store) check(ctx context.Context, query string) (promql.Vector, error) {
	query = variables.Replace(query)
	if strings.Contains(query, "$") {
		return nil, fmt.Errorf("unknown variable in %s", query)
	}
	expr, err := s.parser.ParseExpr(query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	if err := s.checkNode(ctx, expr); err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	v, err := s.run(ctx, query)
	if err == nil && len(v) == 0 {
		err = errors.New("finds nothing")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	return v, nil
}

// checkNode checks all selectors, groups and matchings below a node.
func (s *store) checkNode(ctx context.Context, node parser.Node) error {
	var errs []error
	parser.Inspect(node, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			errs = append(errs, s.checkSelector(ctx, n))
		case *parser.AggregateExpr:
			errs = append(errs, s.checkLabels(n.Expr, n.Grouping))
		case *parser.BinaryExpr:
			if m := n.VectorMatching; m != nil {
				errs = append(errs, s.checkLabels(n.LHS, m.MatchingLabels), s.checkLabels(n.RHS, m.MatchingLabels))
				one := n.RHS
				if m.Card == parser.CardOneToMany {
					one = n.LHS
				}
				errs = append(errs, s.checkLabels(one, m.Include))
			}
		}
		return nil
	})
	return errors.Join(errs...)
}

func (s *store) checkSelector(ctx context.Context, sel *parser.VectorSelector) error {
	if s.names[sel.Name] == nil {
		return fmt.Errorf("meshd does not export %q", sel.Name)
	}
	for _, m := range sel.LabelMatchers {
		if !s.names[sel.Name][m.Name] {
			return fmt.Errorf("%s has no label %s", sel.Name, m.Name)
		}
	}
	v, err := s.run(ctx, sel.String())
	if err == nil && len(v) == 0 {
		err = errors.New("finds nothing")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", sel, err)
	}
	return nil
}

// checkLabels returns an error where no metric in an expression has one of the
// labels.
func (s *store) checkLabels(expr parser.Expr, wanted []string) error {
	has := map[string]bool{}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if sel, ok := n.(*parser.VectorSelector); ok {
			for label := range s.names[sel.Name] {
				has[label] = true
			}
		}
		return nil
	})
	for _, label := range wanted {
		if !has[label] {
			return fmt.Errorf("nothing in %s has a label %s", expr, label)
		}
	}
	return nil
}

var placeholder = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// checkLegend returns an error where a legend shows a label that no result has.
func checkLegend(legend string, v promql.Vector) error {
	for _, m := range placeholder.FindAllStringSubmatch(legend, -1) {
		found := false
		for _, x := range v {
			found = found || x.Metric.Get(m[1]) != ""
		}
		if !found {
			return fmt.Errorf("legend %q: no result has a label %s", legend, m[1])
		}
	}
	return nil
}
