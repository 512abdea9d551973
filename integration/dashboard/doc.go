// Package dashboard checks that each query of docs/grafana-dashboard.json and
// docs/alerts.yml finds what it asks for in what meshd exports. Prometheus' own
// parser and engine run it.
//
//	cmd/meshd TestScrapes ──► /metrics, twice, of two daemons ──► store
//	docs/grafana-dashboard.json, docs/alerts.yml ──► queries ──────┘
//
// It has no other content than its tests: make dashboard runs them.
package dashboard
