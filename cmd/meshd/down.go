package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"meshd/config"
	"meshd/internal/netns"
	"meshd/tap"
	"meshd/tap/attach"
	"meshd/tap/expose"
)

// downTimeout is how long a daemon may take to end.
const downTimeout = 20 * time.Second

func newDownCmd(connect func() *client) *cobra.Command {
	opt := downOptions{}
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End the daemon and take back what it made",
		Long: `End the running daemon, wait until it has gone, and take back what it leaves in place
for the next one: interfaces of containers, exposed addresses, rules of the firewall,
and the bridge. A bridge that meshd did not make stays. What was attached, exposed and
published is kept in the state directory, and done again by "meshd up".

With --keep-bridge the bridge stays as it is, for a daemon that is to come. With
--force what a daemon has left which no longer runs is removed too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opt.keep && opt.force {
				return usageError{errors.New("--keep-bridge and --force exclude each other")}
			}
			return down(cmd.Context(), connect(), opt, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&opt.keep, "keep-bridge", false, "leave the bridge in place")
	cmd.Flags().BoolVar(&opt.force, "force", false, "where no daemon runs, remove what one left")
	cmd.Flags().StringVar(&opt.bridge, "bridge-name", config.Default().Bridge.Name, "with --force: the bridge that was left")
	return cmd
}

type downOptions struct {
	keep, force bool
	bridge      string // with force: of a daemon that is gone
}

// down ends the daemon and takes away what it left.
func down(ctx context.Context, c *client, opt downOptions, out io.Writer) error {
	s, err := c.status(ctx)
	if opt.force && errors.Is(err, errNoDaemon) {
		t, err := takeBack(opt.bridge)
		return t.report(out, opt, opt.bridge, err)
	}
	if err != nil {
		return err
	}
	p, err := c.holdProcess()
	if err != nil {
		return err
	}
	defer p.close()
	if err := c.stopAndWait(ctx, p, s.PID); err != nil {
		return err
	}
	fmt.Fprintf(out, "meshd (pid %d) has ended\n", s.PID)
	if opt.keep {
		return nil
	}
	t, err := p.takeBack(s.Port.Bridge)
	t.bridge = !t.foreign // where nobody uses it the daemon itself removes it
	return t.report(out, opt, s.Port.Bridge, err)
}

// taken is what was taken back.
type taken struct {
	bridge  bool     // it is removed
	foreign bool     // it is not meshd's and stays
	rest    []string // in words: addresses, rules, interfaces
}

// takeBack removes all that a daemon has left in the calling thread's namespace:
// addresses and rules, interfaces of containers, and the bridge, unless that is not
// meshd's. What was asked for stays on disk, and is done again by the next daemon.
func takeBack(bridge string) (t taken, err error) {
	if t.rest, err = expose.Left(bridge); err == nil {
		err = expose.RemoveLeft(bridge)
	}
	left, listErr := attach.Leftovers(bridge)
	err = errors.Join(err, listErr)
	for _, l := range left {
		t.rest = append(t.rest, "interface "+l.Device)
		err = errors.Join(err, attach.Remove(l.Key))
	}
	var bridgeErr error
	t.bridge, bridgeErr = tap.RemoveBridge(bridge)
	if t.foreign = errors.Is(bridgeErr, tap.ErrForeign); t.foreign {
		bridgeErr = nil
	}
	return t, errors.Join(err, bridgeErr)
}

// report says what was taken back, and what was not.
func (t taken) report(out io.Writer, opt downOptions, bridge string, err error) error {
	switch {
	case t.foreign && len(t.rest) > 0 && err == nil && opt.force:
		fmt.Fprintf(out, "the bridge %s was not made by meshd and stays; what a daemon had left is removed: %s\n", bridge, strings.Join(t.rest, ", "))
	case t.foreign:
		fmt.Fprintf(out, "the bridge %s was not made by meshd and stays\n", bridge)
	case err != nil:
	case t.bridge && opt.force: // also as a part of `mesh reset`, after which nothing comes back
		fmt.Fprintf(out, "the bridge %s is removed\n", bridge)
	case t.bridge:
		fmt.Fprintf(out, "the bridge %s is removed: `meshd up` attaches again what meshd attached, and nothing that others did (to restart only, end meshd with SIGTERM)\n", bridge)
	case len(t.rest) > 0:
		fmt.Fprintf(out, "there is no bridge %s; what a daemon had left is removed: %s\n", bridge, strings.Join(t.rest, ", "))
	default:
		fmt.Fprintf(out, "there is nothing to take back: no bridge %s, and no address, rule or interface of meshd's\n", bridge)
	}
	return err
}

// stopAndWait asks the daemon to end and returns when it has.
func (c *client) stopAndWait(ctx context.Context, p *process, pid int) error {
	if err := c.stop(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	if err := p.wait(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("meshd (pid %d) has not ended within %v: see its log, or end it with kill", pid, downTimeout)
		}
		return err
	}
	return nil
}

// process is a running daemon, held on to so that its end is noticed, and its
// network namespace outlives it. What could not be had is nil or closed: the
// daemon may be in another PID namespace, or another user's.
type process struct {
	socket string
	pidfd  *os.File
	ns     *netns.Namespace
}

// holdProcess takes hold of the process that listens on the socket. Taking it
// before it is asked to end keeps another one with the same PID out.
func (c *client) holdProcess() (*process, error) {
	conn, err := net.DialTimeout("unix", c.socket, c.timeout)
	if err != nil {
		return nil, c.explain(err)
	}
	defer conn.Close()
	p := &process{socket: c.socket}
	pid := peerPID(conn)
	if pid == 0 {
		return p, nil
	}
	if fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK); err == nil {
		p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	}
	if ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil {
		p.ns = ns
	}
	return p, nil
}

func (p *process) close() {
	if p.pidfd != nil {
		p.pidfd.Close()
	}
	if p.ns != nil {
		p.ns.Close()
	}
}

// wait returns nil once the daemon has ended.
func (p *process) wait(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !p.gone() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// gone reports whether the process has ended; where it is not known, whether its
// socket has.
func (p *process) gone() bool {
	if p.pidfd != nil {
		fds := []unix.PollFd{{Fd: int32(p.pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	}
	conn, err := net.DialTimeout("unix", p.socket, time.Second)
	if err != nil {
		return true
	}
	conn.Close()
	return false
}

// takeBack is takeBack in the daemon's network namespace, which need not be ours: there
// may be a bridge of that name in both.
func (p *process) takeBack(bridge string) (t taken, err error) {
	if p.ns == nil {
		return t, fmt.Errorf("the bridge %s stays: the daemon's network namespace cannot be entered (run this as root)", bridge)
	}
	err = p.ns.Do(func() error {
		t, err = takeBack(bridge)
		return err
	})
	return t, err
}
