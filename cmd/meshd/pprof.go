package main

import (
	"net/http"
	"net/http/pprof"
	"time"
)

// profiles adds the profiles of net/http/pprof below /debug/pprof/. They show the
// daemon's memory, command line and code, and cost it time.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", lasting(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/trace", lasting(pprof.Trace))
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
}

// lasting is for answers that take longer than others: without this, the deadline
// for reading a request would end them. They end with the connection.
func lasting(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // else it ends early
		h(w, r)
	}
}
