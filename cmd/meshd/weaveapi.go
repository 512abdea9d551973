package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// weave adds the endpoints of weave's HTTP API and metrics.
func (a *api) weave(mux *http.ServeMux) {
	mux.HandleFunc("GET /status", a.weaveText(writeWeaveStatus))
	mux.HandleFunc("GET /status/connections", a.weaveText(writeWeaveConnections))
	mux.HandleFunc("GET /status/peers", a.weaveText(writeWeavePeers))
	mux.HandleFunc("GET /status/targets", a.weaveText(writeWeaveTargets))
	mux.HandleFunc("GET /report", a.weaveReport)
	mux.HandleFunc("POST /connect", a.weaveConnect)
	mux.HandleFunc("POST /forget", a.weaveForget)
	mux.Handle("GET /metrics", a.metrics)
}

func (a *api) weaveText(write func(io.Writer, *weaveReport)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		s := a.status()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		write(w, newWeaveReport(&s))
	}
}

// weaveReport answers with JSON if asked for by Accept, or with a template
// executed.
func (a *api) weaveReport(w http.ResponseWriter, r *http.Request) {
	source := r.URL.Query().Get("format")
	wantsJSON := strings.Contains(r.Header.Get("Accept"), "application/json")
	if source == "" && !wantsJSON {
		http.Error(w, "format= or Accept: application/json is missing", http.StatusBadRequest)
		return
	}
	s := a.status()
	report := newWeaveReport(&s)
	if source == "" {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "    ")
		enc.Encode(report) // an error here means that the client is gone
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), formatTimeout)
	defer cancel()
	out, err := formatReport(ctx, report, source)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(out)
}

func (a *api) weaveConnect(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), bodyStatus(err))
		return
	}
	if err := a.daemon.Connect(r.Form["peer"], r.FormValue("replace") == "true"); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (a *api) weaveForget(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), bodyStatus(err))
		return
	}
	if err := a.daemon.Forget(r.Form["peer"]); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}
