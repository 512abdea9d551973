package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// machineScript makes a mount namespace that of a computer of its own: nothing is in
// the directories where programs keep their state. The /sys that Start mounts is taken
// away: it has no control groups. The machine-id is made of the host name.
const machineScript = `set -eu
umount /sys 2>/dev/null || true
for dir in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
printf %s "$1" | md5sum | cut -c1-32 >/run/machine-id
[ ! -e /etc/machine-id ] || mount --bind /run/machine-id /etc/machine-id
hostname "$1" # last: it is what Machine waits for
exec sleep infinity`

// Machine is a namespace with a host name, a machine-id and /run, /var/lib and /var/log of
// its own, as a computer has them: daemons in several do not meet. It takes programs of
// util-linux. Its methods may be called concurrently.
type Machine struct {
	*Namespace
	holder *Process
}

// Machine makes a namespace a machine with this host name.
func (n *Namespace) Machine(hostName string) (*Machine, error) {
	holder, err := n.Start(Command{
		Path: "/usr/bin/unshare",
		Args: []string{"--mount", "--uts", "--propagation", "private", "sh", "-c", machineScript, "sh", hostName},
	})
	if err != nil {
		return nil, err
	}
	m := &Machine{n, holder}
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	err = Poll(ctx, 10*time.Millisecond, func() error {
		out, err := m.Run(ctx, "hostname")
		if err == nil && strings.TrimSpace(out) != hostName {
			err = fmt.Errorf("machine is called %q still", strings.TrimSpace(out))
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make machine %s: %w", hostName, err), holder.Kill())
	}
	return m, nil
}

// enter is the command line that runs a program in the machine.
func (m *Machine) enter(args []string) []string {
	return append([]string{"-t", strconv.Itoa(m.holder.PID()), "-m", "-u", "-n", "--"}, args...)
}

// Start starts a program in the machine, as Namespace.Start does.
func (m *Machine) Start(c Command) (*Process, error) {
	c.Args = m.enter(append([]string{c.Path}, c.Args...))
	c.Path = "/usr/bin/nsenter"
	return m.Namespace.Start(c)
}

// Run runs a program in the machine and returns what it printed. The error has what it
// said on its standard error.
func (m *Machine) Run(ctx context.Context, args ...string) (string, error) {
	return m.RunWith(ctx, nil, args...)
}

// RunWith is Run with more environment.
func (m *Machine) RunWith(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/nsenter", m.enter(args)...)
	cmd.Env = append(cmd.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// What a program leaves running in the background may keep its output open.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		err = &RunError{Args: args, Stderr: strings.TrimSpace(stderr.String()), Err: err}
	}
	return stdout.String(), err
}

// RunError is a program that did not do what it was run for.
type RunError struct {
	Args   []string
	Stderr string // what it said
	Err    error
}

func (e *RunError) Error() string {
	return fmt.Sprintf("%s: %v: %s", strings.Join(e.Args, " "), e.Err, e.Stderr)
}

func (e *RunError) Unwrap() error { return e.Err }
