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
	return callFor[*Status](ctx, c, http.MethodGet, "/v1/report", nil)
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
	return callFor[reloadAnswer](ctx, c, http.MethodPost, "/v1/reload", nil)
}

func (c *client) stop(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/stop", nil)
	return err
}

// call makes one request and returns the body of a good answer.
func (c *client) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var data []byte
	err := c.exchange(ctx, method, path, body, func(resp *http.Response, _ net.Conn) (err error) {
		data, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return err
	})
	return data, err
}

// callFor makes one request and reads a good answer.
func callFor[T any](ctx context.Context, c *client, method, path string, body any) (answer T, err error) {
	data, err := c.call(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return answer, fmt.Errorf("the answer of the daemon at %s does not fit this version of meshd: %w", c.socket, err)
	}
	return answer, nil
}

// stream makes one request and hands over each line of a good answer as it comes. None
// may take longer than the timeout. An error of line ends it.
func (c *client) stream(ctx context.Context, path string, body any, line func([]byte) error) error {
	return c.exchange(ctx, http.MethodPost, path, body, func(resp *http.Response, conn net.Conn) error {
		lines := bufio.NewScanner(resp.Body)
		for {
			conn.SetReadDeadline(time.Now().Add(c.timeout))
			if !lines.Scan() {
				break
			}
			if err := line(lines.Bytes()); err != nil {
				return wordedError{err}
			}
		}
		if err := lines.Err(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return wordedError{c.ended()}
		}
		return lines.Err()
	})
}

// ended says that the daemon has ended in the middle of an answer.
func (c *client) ended() error {
	return fmt.Errorf("meshd on %s has ended: see its log, or start it again with `meshd up`", c.socket)
}

// wordedError is an error that is a sentence for the operator already.
type wordedError struct{ error }

// exchange makes one request and has the body of a good answer read.
func (c *client) exchange(ctx context.Context, method, path string, body any, read func(*http.Response, net.Conn) error) error {
	req, err := newRequest(method, path, body)
	if err != nil {
		return err
	}
	err = c.send(ctx, req, func(resp *http.Response, conn net.Conn) error {
		if good(resp) {
			return read(resp, conn)
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return err
		}
		return wordedError{c.refusal(resp, data)}
	})
	if ctx.Err() != nil {
		err = ctx.Err() // and not what it made of the connection
	}
	if worded, ok := errors.AsType[wordedError](err); ok {
		return worded.error
	}
	if err != nil {
		return c.explain(err)
	}
	return nil
}

func newRequest(method, path string, body any) (*http.Request, error) {
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
	return req, nil
}

// send sends a request on a connection of its own and has the answer read. http.Client
// would do, but it logs what programs that are not meshd answer.
func (c *client) send(ctx context.Context, req *http.Request, read func(*http.Response, net.Conn) error) error {
	d := net.Dialer{Timeout: c.timeout}
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(c.timeout))
	sent := req.Write(conn)
	// A server may refuse a request before it has read all of it.
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return errors.Join(err, sent)
	}
	// Closing the body would read what is still to come; the connection ends it.
	return read(resp, conn)
}

// good reports whether an answer is what a meshd has for what worked.
func good(resp *http.Response) bool { return resp.Header.Get(apiHeader) != "" && resp.StatusCode < 300 }

// refusal makes an error of an answer that is not good.
func (c *client) refusal(resp *http.Response, data []byte) error {
	version := resp.Header.Get(apiHeader)
	switch {
	case version == "":
		return c.notMeshd()
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the daemon at %s (version %s) does not know this command: it is of another version than this meshd (%s)",
			c.socket, version, buildVersion().Version)
	}
	var e errorAnswer
	if json.Unmarshal(data, &e) == nil && e.Error != "" {
		return errors.New(e.Error)
	}
	return errors.New(strings.TrimSpace(string(data)))
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
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
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
