package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

const (
	maxAnswer = 32 << 20 // bytes of one answer; a container in a list is about 2 KiB
	maxEvent  = 1 << 20  // bytes of one event
)

// docker is an engine that speaks Docker's API: Docker, and podman.
type docker struct {
	engine   string
	socket   string
	optional bool // it is in a usual place, and need not be there
	proc     procfs
	log      *slog.Logger
}

var _ source = (*docker)(nil)

func (d *docker) name() string { return d.engine }

func (d *docker) place() string { return d.socket }

func (d *docker) serves(prefix string) bool { return Fits(prefix, d.engine) }

// at is looked up each time: a link may lead to another engine by now.
func (d *docker) at() string { return realPath(d.socket) }

func (d *docker) has(at string) bool { return d.at() == at }

func (d *docker) absent() bool {
	if !d.optional {
		return false
	}
	_, err := os.Stat(d.socket)
	return errors.Is(err, fs.ErrNotExist)
}

// fault says which engine an error is of, and what is wrong.
func (d *docker) fault(err error) error {
	return fmt.Errorf("%s at %s: %w", d.engine, d.socket, inWords(err))
}

// inWords says what is wrong with an engine in few words.
func inWords(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", timeout)
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("no such socket")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("permission denied")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it hung up")
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("nobody listens")
	}
	return &saidError{err}
}

// saidError is an error with an engine's own words, made fit for people: short, and
// harmless on a terminal.
type saidError struct{ err error }

const maxSaid = 200 // bytes

func (e *saidError) Error() string {
	text := strings.TrimPrefix(e.err.Error(), "Error response from daemon: ")
	more := ""
	if len(text) > maxSaid {
		text, more = text[:maxSaid], "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "")) + more
}

func (e *saidError) Unwrap() error { return e.err }

// connection is a client for one errand: what version of the API is spoken is settled
// anew each time, as the engine may have been replaced.
type connection struct {
	*client.Client
	streaming atomic.Bool // the engine has begun to answer with events
}

// dial settles with the engine how to speak.
func (d *docker) dial(ctx context.Context) (*connection, error) {
	conn := &connection{}
	// A plain dial first: its error is the system's, the client's are prose.
	if err := reachable(ctx, d.socket); err != nil {
		return nil, err
	}
	var err error
	conn.Client, err = client.New(client.WithHost("unix://"+d.socket), client.WithUserAgent("meshd"), client.WithHTTPResponseHook(conn.heed))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := conn.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// heed bounds the size of an answer.
func (c *connection) heed(response *http.Response) {
	if !strings.HasSuffix(response.Request.URL.Path, "/events") {
		response.Body = &bounded{ReadCloser: response.Body, max: maxAnswer}
		return
	}
	response.Body = &bounded{ReadCloser: response.Body, max: maxEvent, lines: true}
	c.streaming.Store(response.StatusCode < http.StatusBadRequest)
}

// bounded is a body that ends with an error when it is too long: as a whole, or one of
// its lines.
type bounded struct {
	io.ReadCloser
	max   int
	lines bool
	n     int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += n
	if b.lines {
		if _, after, ok := cutLast(string(p[:n]), "\n"); ok {
			b.n = len(after)
		}
	}
	if b.n > b.max {
		return 0, fmt.Errorf("the answer has more than %d bytes", b.max)
	}
	return n, err
}

// severalError is the answer that a name is the begin of several ids.
type severalError struct{ error }

// find asks for a container. key is safe in a URL: parse saw to it.
func (d *docker) find(ctx context.Context, key string) ([]Container, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, d.fault(err)
	}
	defer conn.Close()
	c, err := d.inspect(ctx, conn, key)
	switch {
	case isUnknown(err):
		return nil, nil
	case isSeveral(err):
		return nil, &severalError{d.fault(err)}
	case err != nil:
		return nil, d.fault(err)
	case fit(c, key) == fitsNot:
		return nil, d.fault(fmt.Errorf("asked for %s it tells of %s", quote(key), quote(c.ID)))
	}
	return []Container{c}, nil
}

// isUnknown: the engine says that there is no such container. "Not found" alone may be
// anybody's answer to an unknown path.
func isUnknown(err error) bool {
	return cerrdefs.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "no such container")
}

// isSeveral: the words of Docker, and of podman.
func isSeveral(err error) bool {
	if err == nil {
		return false
	}
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "multiple ids found") || strings.Contains(text, "more than one result")
}

// again implements source.
func (d *docker) again(ctx context.Context, _, id string) (Container, error) {
	found, err := d.find(ctx, id)
	switch {
	case err != nil:
		return Container{}, err
	case len(found) == 0 || found[0].ID != id: // another may be called so
		return Container{}, gone(id, d.engine)
	}
	return found[0], nil
}

func (d *docker) inspect(ctx context.Context, conn *connection, key string) (Container, error) {
	answer, err := conn.ContainerInspect(ctx, key, client.ContainerInspectOptions{})
	if err != nil {
		return Container{}, err
	}
	return d.container(answer.Container)
}

// container takes what is needed of an engine's answer.
func (d *docker) container(r container.InspectResponse) (Container, error) {
	if !isKey(r.ID) || r.State == nil {
		return Container{}, fmt.Errorf("its answer about container %s lacks what has to be there", quote(r.ID))
	}
	c := Container{Engine: d.engine, At: d.at(), ID: r.ID, status: string(r.State.Status)}
	if name := strings.TrimPrefix(r.Name, "/"); isKey(name) {
		c.Name = name
	}
	if r.State.Running && r.State.Pid > 0 && r.State.Pid <= maxPID {
		c.Running, c.PID = true, r.State.Pid
	}
	if r.HostConfig != nil {
		c.HostNetwork = r.HostConfig.NetworkMode.IsHost()
	}
	return c, nil
}

// follow reports events until the engine goes away or ctx is done. It tells how long
// the engine answered.
func (d *docker) follow(ctx context.Context, report func(Event)) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := d.dial(ctx)
	if err != nil {
		return 0, d.fault(err)
	}
	defer conn.Close()
	begin := time.Now()
	stream, err := conn.events(ctx, cancel, begin)
	defer func() {
		cancel()
		for range stream.Err { // its goroutine closes this when it ends
		}
	}()
	if err != nil {
		return 0, d.fault(err)
	}
	d.log.Info("container engine answers", "engine", d.engine)
	report(Event{Kind: Resync, Engine: d.engine, At: d.at()})
	for {
		select {
		case m := <-stream.Messages:
			if e, ok := d.event(m); ok {
				report(e)
			}
		case err := <-stream.Err:
			return time.Since(begin), d.fault(err)
		}
	}
}

// events asks for the events of containers, and returns when the engine has begun to
// tell them.
func (c *connection) events(ctx context.Context, cancel func(), begin time.Time) (client.EventsResult, error) {
	// The stream lasts; only its begin may not.
	late := time.AfterFunc(timeout, cancel)
	stream := c.Events(ctx, client.EventsListOptions{
		// Docker says that it begins a moment before it does: what happens between is
		// in what it remembers.
		Since:   strconv.FormatInt(begin.Unix()-1, 10),
		Filters: make(client.Filters).Add("type", string(events.ContainerEventType)),
	})
	if !late.Stop() {
		return stream, context.DeadlineExceeded
	}
	if !c.streaming.Load() {
		return stream, <-stream.Err
	}
	return stream, nil
}

// event takes what is needed of an engine's event. Docker and podman have words of
// their own. What is not listed, such as the commands of health checks, is no matter.
func (d *docker) event(m events.Message) (Event, bool) {
	if m.Type != events.ContainerEventType || !isKey(m.Actor.ID) {
		return Event{}, false
	}
	e := Event{Engine: d.engine, At: d.at(), ID: m.Actor.ID}
	if name := m.Actor.Attributes["name"]; isKey(name) {
		e.Name = name
	}
	switch m.Action {
	case events.ActionStart, events.ActionRestart:
		e.Kind = Started
	case events.ActionDie, "died":
		e.Kind = Ended
	case events.ActionDestroy, "remove":
		e.Kind = Removed
	default:
		return Event{}, false
	}
	return e, true
}

// watch implements source.
func (d *docker) watch(ctx context.Context, report func(Event)) {
	wait := shortestWait
	for ctx.Err() == nil {
		lasted, err := d.follow(ctx, report)
		if ctx.Err() != nil {
			return
		}
		if lasted > 0 {
			d.log.Info("container engine went away", "engine", d.engine, "err", err)
		} else {
			d.log.Debug("container engine does not answer", "engine", d.engine, "err", err)
		}
		// One that only says hello is no better than none.
		if lasted > longestWait {
			wait = shortestWait
		}
		pause(ctx, wait)
		wait = min(2*wait, longestWait)
	}
}
