package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// ask sends one request to a handler.
func ask(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:6784"+path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const formType = "application/x-www-form-urlencoded"

func TestLocalAPI(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	h := newAPI(d, discard()).local()

	w := ask(h, "GET", "/v1/report", "")
	var s Status
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != http.StatusOK || s.Name != "02:00:00:00:00:01" {
		t.Fatalf("GET /v1/report = %d %v %q", w.Code, err, s.Name)
	}
	if w.Header().Get(apiHeader) == "" {
		t.Error("answer does not say that it is meshd's")
	}

	w = ask(h, "POST", "/v1/connect", `{"peers":["10.0.0.9","weave09:6783"],"replace":true}`)
	targets, replace := d.asked()
	if w.Code != http.StatusNoContent || !slices.Equal(targets, []string{"10.0.0.9", "weave09:6783"}) || !replace {
		t.Errorf("POST /v1/connect = %d, asked for %v, %v", w.Code, targets, replace)
	}
	w = ask(h, "POST", "/v1/forget", `{"peers":["10.0.0.9"]}`)
	if targets, _ = d.asked(); w.Code != http.StatusNoContent || !slices.Equal(targets, []string{"10.0.0.9"}) {
		t.Errorf("POST /v1/forget = %d, asked for %v", w.Code, targets)
	}
	w = ask(h, "POST", "/v1/reload", "")
	if want := `{"applied":["peers: [] -> [a]"],"need_restart":["listen: :6783 -> :6784"]}`; unescaped(w) != want {
		t.Errorf("POST /v1/reload = %s, want %s", unescaped(w), want)
	}
	w = ask(h, "POST", "/v1/stop", "")
	if w.Code != http.StatusAccepted {
		t.Errorf("POST /v1/stop = %d", w.Code)
	}
	<-d.stopped
}

// unescaped undoes json's care for HTML.
func unescaped(w *httptest.ResponseRecorder) string {
	return strings.TrimSpace(strings.ReplaceAll(w.Body.String(), `\u003e`, ">"))
}

func TestLocalAPIFaults(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	d.fail = errRefused
	h := newAPI(d, discard()).local()
	tests := []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"connect refused", "POST", "/v1/connect", `{"peers":["a"]}`, 400, errRefused.Error()},
		{"forget refused", "POST", "/v1/forget", `{"peers":["a"]}`, 400, errRefused.Error()},
		{"reload refused", "POST", "/v1/reload", "", 422, errRefused.Error()},
		{"not JSON", "POST", "/v1/connect", "peer=a", 400, "read request"},
		{"unknown field", "POST", "/v1/connect", `{"peer":["a"]}`, 400, "unknown field"},
		{"wrong type", "POST", "/v1/connect", `{"peers":"a"}`, 400, "read request"},
		{"empty", "POST", "/v1/forget", "", 400, "EOF"},
		{"too large", "POST", "/v1/connect", `{"peers":["` + strings.Repeat("a", maxBody) + `"]}`, 413, "too large"},
		{"unknown path", "GET", "/v1/nothing", "", 404, ""},
		{"wrong method", "GET", "/v1/stop", "", 405, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(h, tt.method, tt.path, tt.body)
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%s %s = %d %s, want %d %s", tt.method, tt.path, w.Code, w.Body, tt.code, tt.want)
			}
		})
	}
}

func TestWeaveAPI(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	h := newAPI(d, discard()).public()
	tests := []struct {
		name, path string
		header     []string
		code       int
		want       string
	}{
		{"status", "/status", nil, 200, "           Name: 02:00:00:00:00:01(weave01)\n"},
		{"connections", "/status/connections", nil, 200, "-> 10.142.130.17:6783    established encrypted   sleeve"},
		{"peers", "/status/peers", nil, 200, "02:00:00:00:00:02(weave02)\n   <- 10.142.130.16:51234"},
		{"targets", "/status/targets", nil, 200, "10.142.130.17\n"},
		{"report", "/report", []string{"Accept", "application/json"}, 200, `    "Ready": true,`},
		{"report by template", "/report?format=" + url.QueryEscape("{{.Router.NickName}}"), nil, 200, "weave01"},
		{"template wins over Accept", "/report?format=x", []string{"Accept", "application/json"}, 200, "x"},
		{"report without a form", "/report", []string{"Accept", "*/*"}, 400, "format="},
		{"bad template", "/report?format=%7B%7B", nil, 400, "parse template"},
		{"metrics", "/metrics", nil, 200, `weave_connections{encryption="yes",state="established",type="sleeve"} 2`},
		{"own API is not on TCP", "/v1/report", nil, 404, ""},
		{"stop is not on TCP", "/v1/stop", nil, 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(h, "GET", tt.path, "", tt.header...)
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("GET %s = %d\n%s\nwant %d %s", tt.path, w.Code, w.Body, tt.code, tt.want)
			}
		})
	}
}

func TestWeaveConnectAndForget(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	h := newAPI(d, discard()).public()
	w := ask(h, "POST", "/connect", "peer=a&peer=b&replace=true", "Content-Type", formType)
	targets, replace := d.asked()
	if w.Code != 200 || w.Body.Len() > 0 || !slices.Equal(targets, []string{"a", "b"}) || !replace {
		t.Errorf("POST /connect = %d %q, asked for %v, %v", w.Code, w.Body, targets, replace)
	}
	w = ask(h, "POST", "/forget", "peer=b", "Content-Type", formType)
	if targets, _ = d.asked(); w.Code != 200 || !slices.Equal(targets, []string{"b"}) {
		t.Errorf("POST /forget = %d, asked for %v", w.Code, targets)
	}
	big := "peer=" + strings.Repeat("a", maxBody)
	for _, path := range []string{"/connect", "/forget"} {
		if w = ask(h, "POST", path, big, "Content-Type", formType); w.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("POST %s of more than 1 MiB = %d", path, w.Code)
		}
	}
	d.fail = errRefused
	for _, path := range []string{"/connect", "/forget"} {
		if w = ask(h, "POST", path, "peer=a", "Content-Type", formType); w.Code != 400 || !strings.Contains(w.Body.String(), errRefused.Error()) {
			t.Errorf("POST %s = %d %s", path, w.Code, w.Body)
		}
	}
}

func TestGuard(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	h := newAPI(d, discard()).public()
	tests := []struct {
		name   string
		header []string
		code   int
	}{
		{"program", nil, 200},
		{"localhost", []string{"Host", "localhost:6784"}, 200},
		{"localhost without port", []string{"Host", "localhost"}, 200},
		{"IPv6", []string{"Host", "[::1]:6784"}, 200},
		{"IPv6 without port", []string{"Host", "[::1]"}, 200},
		{"rebound name", []string{"Host", "evil.example"}, 403},
		{"rebound name with port", []string{"Host", "evil.example:6784"}, 403},
		{"name that looks like an address", []string{"Host", "127.0.0.1.evil.example"}, 403},
		{"no host", []string{"Host", ""}, 403},
		{"page of the same origin", []string{"Origin", "http://127.0.0.1:6784"}, 200},
		{"page of another origin", []string{"Origin", "http://evil.example"}, 403},
		{"page of another port", []string{"Origin", "http://127.0.0.1:8080"}, 403},
		{"sandboxed page", []string{"Origin", "null"}, 403},
		{"cross-site fetch", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"same-site fetch", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"same-origin fetch", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"address bar", []string{"Sec-Fetch-Site", "none"}, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if w := ask(h, "GET", "/status", "", tt.header...); w.Code != tt.code {
				t.Errorf("GET = %d, want %d", w.Code, tt.code)
			}
			header := append([]string{"Content-Type", formType}, tt.header...)
			if w := ask(h, "POST", "/connect", "peer=a", header...); w.Code != tt.code {
				t.Errorf("POST = %d, want %d", w.Code, tt.code)
			}
		})
	}
}

func FuzzHostIsAddress(f *testing.F) {
	for _, s := range []string{"", "localhost", "127.0.0.1:80", "[::1]", "[::1]:1", "[", "]", ":", "a:b:c", "[fe80::1%25eth0]:1", "[]", "0.0.0.0:#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rest := strings.TrimPrefix(s, "localhost")
		if hostIsAddress(s) && strings.Trim(rest, "0123456789abcdefABCDEF.:[]") != "" {
			t.Errorf("hostIsAddress(%q)", s)
		}
	})
}

func TestServerLimits(t *testing.T) {
	path := startServer(t, newFakeDaemon(healthyReport()))
	send := func(t *testing.T, request string) string {
		t.Helper()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go io.WriteString(conn, request) // the server may close before all is sent
		answer, _ := io.ReadAll(conn)
		return string(answer)
	}
	t.Run("large header", func(t *testing.T) {
		got := send(t, "GET /status HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("a", 1<<20)+"\r\n\r\n")
		if got != "" && !strings.HasPrefix(got, "HTTP/1.1 431") {
			t.Errorf("answer = %.40q", got)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		if got := send(t, "\x00\x01\x02\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400") {
			t.Errorf("answer = %.40q", got)
		}
	})
	t.Run("idle connections", func(t *testing.T) {
		for range maxAPIConns - 1 {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		if _, err := newClient(path).status(t.Context()); err != nil {
			t.Errorf("with %d idle connections: %v", maxAPIConns-1, err)
		}
	})
}

func TestServeEndsWithContext(t *testing.T) {
	s, err := listenSocket(shortDir(t) + "/meshd.sock")
	if err != nil {
		t.Fatal(err)
	}
	idle, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	ctx, cancel := context.WithCancel(t.Context())
	d := newFakeDaemon(healthyReport())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, s, newAPI(d, discard()).local(), discard()) }()
	if _, err := newClient(s.path).status(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve = %v", err)
	}
	if _, err := net.Dial("unix", s.path); err == nil {
		t.Error("the socket still takes connections")
	}
}

func TestServeReportsFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := serve(t.Context(), l, http.NotFoundHandler(), discard()); err == nil {
		t.Error("serve on a closed listener = nil")
	}
}

func TestListenHTTP(t *testing.T) {
	tests := []struct {
		address string
		warns   bool
	}{{"127.0.0.1:0", false}, {"0.0.0.0:0", true}}
	for _, tt := range tests {
		t.Run(tt.address, func(t *testing.T) {
			var logged strings.Builder
			l, err := listenHTTP(tt.address, newLogger(&logged, nil))
			if err != nil {
				t.Fatal(err)
			}
			if warned := strings.Contains(logged.String(), "can be reached from other hosts"); warned != tt.warns {
				t.Errorf("log = %q, warning wanted: %v", logged.String(), tt.warns)
			}
			serveUntilEnd(t, l, newAPI(newFakeDaemon(healthyReport()), discard()).public())
			port := l.Addr().(*net.TCPAddr).Port
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/status", port))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("GET /status = %s", resp.Status)
			}
		})
	}
	if _, err := listenHTTP("127.0.0.1:99999", discard()); err == nil {
		t.Error("listenHTTP on port 99999 = nil")
	}
}
