package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of the API, on the socket and on TCP alike.
const (
	maxBody        = 1 << 20 // bytes
	maxAPIConns    = 64
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second // to read a request
	answerTimeout  = 30 * time.Second // to answer it
	formatTimeout  = 5 * time.Second  // for a report template
	idleTimeout    = 30 * time.Second
	endTimeout     = 2 * time.Second // for running requests at the end
)

// apiHeader tells a client that it has found a meshd; its value is the version.
const apiHeader = "Meshd-Version"

// api answers the local API.
type api struct {
	daemon  Daemon
	log     *slog.Logger
	metrics http.Handler
	pprof   bool // on the unix socket
}

func newAPI(daemon Daemon, log *slog.Logger) *api {
	return &api{
		daemon: daemon,
		log:    log,
		metrics: promhttp.HandlerFor(newRegistry(daemon), promhttp.HandlerOpts{
			ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
			MaxRequestsInFlight: 4,
			Timeout:             requestTimeout,
		}),
	}
}

// local answers on the unix socket: our own API, weave's, metrics, and profiles
// where they are wanted.
func (a *api) local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/report", a.report)
	mux.HandleFunc("POST /v1/connect", order(a.connect))
	mux.HandleFunc("POST /v1/forget", order(a.forget))
	mux.HandleFunc("POST /v1/trust/forget", answer(a.forgetKey))
	mux.HandleFunc("POST /v1/transport/use", order(a.useTransport))
	mux.HandleFunc("POST /v1/reload", a.reload)
	mux.HandleFunc("POST /v1/bench", lasting(a.bench))
	mux.HandleFunc("GET /v1/why", a.why)
	mux.HandleFunc("GET /v1/nat", a.nat)
	mux.HandleFunc("POST /v1/ping", lasting(a.ping))
	mux.HandleFunc("POST /v1/attach", answer(a.attach))
	mux.HandleFunc("POST /v1/detach", answer(a.detach))
	mux.HandleFunc("POST /v1/expose", answer(a.expose))
	mux.HandleFunc("POST /v1/hide", answer(a.hide))
	mux.HandleFunc("POST /v1/publish", answer(a.publish))
	mux.HandleFunc("POST /v1/unpublish", order(a.unpublish))
	mux.HandleFunc("GET /v1/containers", a.containers)
	mux.HandleFunc("POST /v1/stop", a.stop)
	if a.pprof {
		profiles(mux)
	}
	a.weave(mux)
	return a.common(mux)
}

// public answers on TCP: weave's API (weave protocol section 8.3) and metrics.
func (a *api) public() http.Handler {
	mux := http.NewServeMux()
	a.weave(mux)
	return guard(a.common(mux))
}

// common is what all requests have.
func (a *api) common(next http.Handler) http.Handler {
	version := buildVersion().Version
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(apiHeader, version)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

func (a *api) status() Status { return newStatus(a.daemon.Report(), time.Now()) }

func (a *api) report(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, a.status()) }

// peersRequest is the body of /v1/connect and /v1/forget.
type peersRequest struct {
	Peers   []string `json:"peers"`
	Replace bool     `json:"replace,omitempty"`
}

// reloadAnswer is the answer to /v1/reload: keys that changed.
type reloadAnswer struct {
	Applied     []string `json:"applied"`
	NeedRestart []string `json:"need_restart"`
}

// errorAnswer is the answer to what did not work.
type errorAnswer struct {
	Error string `json:"error"`
}

func (a *api) connect(_ context.Context, req peersRequest) error {
	return a.daemon.Connect(req.Peers, req.Replace)
}

func (a *api) forget(_ context.Context, req peersRequest) error { return a.daemon.Forget(req.Peers) }

func (a *api) reload(w http.ResponseWriter, _ *http.Request) {
	applied, needRestart, err := a.daemon.Reload()
	if err != nil {
		writeError(w, http.StatusUnprocessableEntity, err)
		return
	}
	same := func(s string) string { return s }
	writeJSON(w, http.StatusOK, reloadAnswer{Applied: each(applied, same), NeedRestart: each(needRestart, same)})
}

func (a *api) stop(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusAccepted)
	a.daemon.Stop()
}

// answer makes a handler of what answers a request. Its errors are the caller's to mend.
func answer[Req, Answer any](f func(context.Context, Req) (Answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if !readRequest(w, r, &req) {
			return
		}
		result, err := f(r.Context(), req)
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		writeJSON(w, http.StatusOK, result)
	}
}

// order is answer for what has no answer but that it is done.
func order[Req any](f func(context.Context, Req) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if !readRequest(w, r, &req) {
			return
		}
		if err := f(r.Context(), req); err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// readRequest reads a body into req; where it cannot, it has answered.
func readRequest(w http.ResponseWriter, r *http.Request, req any) bool {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(req); err != nil {
		writeError(w, bodyStatus(err), fmt.Errorf("read request: %w", err))
		return false
	}
	return true
}

// bodyStatus tells a body that is too large from one that is wrong.
func bodyStatus(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error here means that the client is gone
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, errorAnswer{Error: err.Error()})
}

// serve answers requests on l until ctx is done, then lets running requests end
// and returns nil. It closes l.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if srv.Shutdown(limited) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(newLimitListener(l, maxAPIConns))
	if !stop() {
		<-ended
	}
	l.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
}

// listenHTTP listens for weave's API on TCP.
func listenHTTP(address string, log *slog.Logger) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the HTTP API: %w", err)
	}
	if !loopback(l.Addr().String()) {
		log.Warn("the HTTP API can be reached from other hosts: it can change the mesh and has no password", "addr", l.Addr().String())
	}
	return l, nil
}
