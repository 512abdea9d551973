package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a program to start in a namespace.
type Command struct {
	Path string   // the program
	Args []string // without the program's name
	Env  []string // added to our environment; later entries win
	// Log takes what the program prints, appended; empty: nowhere.
	Log string
	// UID and GID to run as; 0: as we are.
	UID, GID uint32
	// Hide names directories that the program finds empty.
	Hide []string
}

// Process is a program that runs in a namespace. Its methods may be called
// concurrently.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed by wait, when state and err are set
	err  error
}

// Start starts a program in the namespace, with a mount namespace of its own
// whose /sys shows the interfaces of this network namespace. The program ends
// with the lab at the latest.
func (n *Namespace) Start(c Command) (*Process, error) {
	p := &Process{log: c.Log, done: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Env = append(os.Environ(), c.Env...)
	// A session of its own: Ctrl-C at our terminal is for us to pass on, and
	// a lab that is kept outlives the terminal.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.UID != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID}
	}
	if c.Log != "" {
		f, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		p.cmd.Stdout, p.cmd.Stderr = f, f
	}
	err := n.Do(func() error {
		if err := ownMounts(c.Hide); err != nil {
			return err
		}
		return p.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", filepath.Base(c.Path), n.Name, err)
	}
	n.mu.Lock()
	n.procs = append(n.procs, p)
	n.mu.Unlock()
	go p.wait()
	return p, nil
}

// ownMounts gives the calling thread a mount namespace of its own.
func ownMounts(hide []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	// Not to be seen outside, while what is unmounted outside goes here too.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts slaves: %w", err)
	}
	// Where the machine forbids this the program sees the machine's /sys/class/net,
	// which matters only to programs that look there.
	_ = unix.Mount("sysfs", "/sys", "sysfs", 0, "")
	for _, dir := range hide {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID is the program's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the program ended: nil for exit code 0, else an *exec.ExitError.
// It may be called once Done is closed.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends a signal: SIGSTOP freezes, SIGCONT thaws. A program that has
// ended is os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill kills the program, as kill -9 does, and waits until it is gone. One that
// has ended is no error.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.PID(), err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(endTime):
		return fmt.Errorf("process %d does not end", p.PID())
	}
}

// Stop asks the program to end by SIGTERM and waits. If it takes longer than
// limit it is killed and that is an error; else the error is Err's.
func (p *Process) Stop(limit time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end process %d: %w", p.PID(), err)
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("process %d did not end in %v", p.PID(), limit), p.Kill())
	}
}

// Tail returns the last lines of the program's log, at most max.
func (p *Process) Tail(max int) []string {
	if p.log == "" {
		return nil
	}
	b, err := os.ReadFile(p.log)
	if err != nil {
		return nil
	}
	lines := strings.Split(string(bytes.TrimRight(b, "\n")), "\n")
	return lines[len(lines)-min(max, len(lines)):]
}

// RSS is the resident memory of the program in bytes.
func (p *Process) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, fmt.Errorf("read statm of process %d: %w", p.PID(), err)
	}
	return resident * int64(os.Getpagesize()), nil
}
