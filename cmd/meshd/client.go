package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"meshd/internal/frame"
)

const (
	defaultSocket = "/run/meshd.sock"
	socketEnv     = "MESHD_API_SOCKET"
	clientTimeout = 10 * time.Second
	maxAnswer     = 256 << 20 // bytes
)

// client talks to the daemon over its unix socket. Its errors are sentences for
// the operator.
type client struct {
	socket  string
	timeout time.Duration // for one request
}

func newClient(socket string) *client { return &client{socket: socket, timeout: clientTimeout} }

// status asks for everything that the daemon shows.
func (c *client) status(ctx context.Context) (*Status, error) {
	data, err := c.call(ctx, http.MethodGet, "/v1/report", nil)
	if err != nil {
		return nil, err
	}
	s := new(Status)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("the answer of the daemon at %s does not fit this version of meshd: %w", c.socket, err)
	}
	return s, nil
}

// report asks for weave's report: JSON, or a template executed on it.
func (c *client) report(ctx context.Context, format string) ([]byte, error) {
	path := "/report"
	if format != "" {
		path += "?" + url.Values{"format": {format}}.Encode()
	}
	return c.call(ctx, http.MethodGet, path, nil)
}

func (c *client) connect(ctx context.Context, addresses []string, replace bool) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/connect", peersRequest{Peers: addresses, Replace: replace})
	return err
}

func (c *client) forget(ctx context.Context, targets []string) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/forget", peersRequest{Peers: targets})
	return err
}

func (c *client) forgetKey(ctx context.Context, name frame.PeerName) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/trust/forget", forgetKeyRequest{Name: name})
	return err
}

func (c *client) reload(ctx context.Context) (reloadAnswer, error) {
	data, err := c.call(ctx, http.MethodPost, "/v1/reload", nil)
	if err != nil {
		return reloadAnswer{}, err
	}
	var a reloadAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("read the answer of the daemon: %w", err)
	}
	return a, nil
}

func (c *client) stop(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/stop", nil)
	return err
}

// call makes one request and returns the body of a good answer.
func (c *client) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, "http://localhost"+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Close = true
	resp, data, err := c.exchange(ctx, req)
	if ctx.Err() != nil {
		err = ctx.Err() // and not what it made of the connection
	}
	if err != nil {
		return nil, c.explain(err)
	}
	return data, c.check(resp, data)
}

// exchange sends one request on a connection of its own and reads the answer.
// http.Client would do, but it logs what programs that are not meshd answer.
func (c *client) exchange(ctx context.Context, req *http.Request) (*http.Response, []byte, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sent := req.Write(conn)
	// A server may refuse a request before it has read all of it.
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return nil, nil, errors.Join(err, sent)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp, data, err
}

// check makes an error of an answer that is not good.
func (c *client) check(resp *http.Response, data []byte) error {
	version := resp.Header.Get(apiHeader)
	switch {
	case version == "":
		return c.notMeshd()
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the daemon at %s (version %s) does not know this command: it is of another version than this meshd (%s)",
			c.socket, version, buildVersion().Version)
	case resp.StatusCode >= 300:
		var e errorAnswer
		if json.Unmarshal(data, &e) == nil && e.Error != "" {
			return errors.New(e.Error)
		}
		return errors.New(strings.TrimSpace(string(data)))
	}
	return nil
}

func (c *client) notMeshd() error {
	return fmt.Errorf("the program that listens on %s is not meshd: name meshd's socket with --socket or %s", c.socket, socketEnv)
}

// errNoDaemon is what the errors are that say that no daemon runs.
var errNoDaemon = errors.New("no meshd is running here")

// noDaemonError is errNoDaemon with its remedy.
type noDaemonError string

func (e noDaemonError) Error() string   { return string(e) }
func (noDaemonError) Is(err error) bool { return err == errNoDaemon }

// explain says in one sentence why there is no answer, and what to do.
func (c *client) explain(err error) error {
	info, statErr := os.Stat(c.socket)
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("meshd on %s does not answer within %v: see its log, or end it with kill", c.socket, c.timeout)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("permission to use %s is refused: run this as root%s", c.socket, orGroup(info))
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%s cannot be the path of a socket: it is longer than 107 bytes", c.socket)
	case errors.Is(statErr, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return noDaemonError(fmt.Sprintf("no meshd is running here: %s does not exist; start one with `meshd up`, or name its socket with --socket or %s",
			c.socket, socketEnv))
	case statErr == nil && info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket: name meshd's socket with --socket or %s", c.socket, socketEnv)
	case errors.Is(err, syscall.ECONNREFUSED):
		return noDaemonError(fmt.Sprintf("no meshd is running here: nobody listens on %s, which one that died has left; start it again with `meshd up`", c.socket))
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("meshd on %s closed the connection without an answer: it may be ending", c.socket)
	}
	if _, isNet := errors.AsType[net.Error](err); !isNet {
		return c.notMeshd() // what it said is not HTTP
	}
	return fmt.Errorf("talk to meshd on %s: %w", c.socket, err)
}

// orGroup names the group that may use the socket, where it is another than
// root's.
func orGroup(info fs.FileInfo) string {
	if info == nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Gid == 0 || info.Mode().Perm()&0o020 == 0 {
		return ""
	}
	gid := strconv.Itoa(int(st.Gid))
	if g, err := user.LookupGroupId(gid); err == nil {
		gid = g.Name
	}
	return ", or join the group " + gid
}
