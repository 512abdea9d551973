package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Environment of a service whose manager wants to be told (sd_notify(3),
// sd_watchdog_enabled(3)).
const (
	notifySocketEnv = "NOTIFY_SOCKET"
	watchdogEnv     = "WATCHDOG_USEC" // microseconds
	watchdogPIDEnv  = "WATCHDOG_PID"
)

// aliveTimeout is how long the daemon may take to answer before it is taken for stuck.
const aliveTimeout = time.Second

// notifier tells the service manager how we are. One of a daemon that no manager
// waits for says nothing.
type notifier struct {
	socket   string        // path of a unixgram socket, "@..." an abstract one; empty: none
	watchdog time.Duration // within which the manager wants a sign of life; 0: it does not
	log      *slog.Logger
}

// newNotifier reads what the service manager wants, and takes it out of the
// environment, so that no process that we start speaks for us.
func newNotifier(log *slog.Logger) notifier {
	n := notifier{socket: os.Getenv(notifySocketEnv), log: log}
	usec, err := strconv.ParseInt(os.Getenv(watchdogEnv), 10, 64)
	pid := os.Getenv(watchdogPIDEnv)
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	for _, name := range []string{notifySocketEnv, watchdogEnv, watchdogPIDEnv} {
		os.Unsetenv(name)
	}
	return n
}

// tell sends a state. That it does not arrive is no reason to end.
func (n notifier) tell(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		conn.SetWriteDeadline(time.Now().Add(aliveTimeout))
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		n.log.Warn("the service manager was not told", "state", state, "err", err)
	}
}

func (n notifier) ready(status string) { n.tell("READY=1\nSTATUS=" + status) }
func (n notifier) stopping()           { n.tell("STOPPING=1\nSTATUS=ending") }

// reloading says that a reload begins; systemd wants to know when, on its own clock
// (Type=notify-reload). READY=1 ends it.
func (n notifier) reloading() {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // never fails
	n.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// reloaded ends a reload.
func (n notifier) reloaded(at time.Time, err error) {
	status := "settings read at " + at.Format(time.TimeOnly)
	if err != nil {
		status = "settings of before: they were not read at " + at.Format(time.TimeOnly)
	}
	n.ready(status)
}

// run says that we are ready once alive has returned in time, and from then on gives a
// sign of life twice in the time that the manager wants one in, as long as alive goes on
// to. It returns when ctx is done.
func (n notifier) run(ctx context.Context, status string, alive func()) {
	if n.socket == "" {
		return
	}
	answered := make(chan struct{}, 1)
	asked := false // alive has been called and has not returned
	answers := func() bool {
		if !asked {
			asked = true
			go func() { alive(); answered <- struct{}{} }()
		}
		select {
		case <-answered:
			asked = false
			return true
		case <-time.After(aliveTimeout):
		case <-ctx.Done():
		}
		return false
	}
	for !answers() {
		if ctx.Err() != nil {
			return
		}
	}
	n.ready(status)
	if n.watchdog == 0 {
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for !answers() { // a late sign of life is better than none
			if ctx.Err() != nil {
				return
			}
			n.log.Error("the daemon is stuck: no sign of life for the service manager", "within", aliveTimeout)
		}
		n.tell("WATCHDOG=1")
		tick.Reset(n.watchdog / 2) // it may have been late
	}
}
