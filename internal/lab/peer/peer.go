package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"meshd/internal/lab"
)

// DefaultBridge is the bridge that meshd makes when it is told no other.
const DefaultBridge = "weave"

// Config says how a peer is started.
type Config struct {
	Binary   string // meshd
	Dir      string // for state, socket and log; made when missing
	Name     string // xx:xx:xx:xx:xx:xx
	NickName string
	Peers    []string // targets
	Args     []string // further flags of `meshd up`
	Env      []string
	UID      uint32   // to run as; 0: as we are
	Hide     []string // directories that it finds empty
}

// Peer is meshd on a host of the lab. Its methods may be called concurrently,
// but those that start and end it have to be called one at a time.
type Peer struct {
	Host *lab.Namespace
	Config

	mu   sync.Mutex // guards proc
	proc *lab.Process
}

// ErrDown says that the peer's program does not run.
var ErrDown = errors.New("meshd does not run")

// New prepares a peer; nothing is started.
func New(host *lab.Namespace, c Config) (*Peer, error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	return &Peer{Host: host, Config: c}, nil
}

// Socket is the path of the API socket.
func (p *Peer) Socket() string { return filepath.Join(p.Dir, "api.sock") }

// LogFile is the path of the log; restarts append to it.
func (p *Peer) LogFile() string { return filepath.Join(p.Dir, "log") }

// CommandLine is what Up runs, without the program's path.
func (p *Peer) CommandLine() []string {
	args := []string{
		"up", "--name", p.Name, "--nickname", p.NickName,
		"--state-dir", filepath.Join(p.Dir, "state"), "--api-socket", p.Socket(),
	}
	args = append(args, p.Args...)
	return append(args, p.Peers...)
}

// Up starts meshd; it does not wait for anything.
func (p *Peer) Up() error {
	if _, err := p.Process(); err == nil {
		return fmt.Errorf("meshd runs on %s already", p.NickName)
	}
	proc, err := p.Host.Start(lab.Command{
		Path: p.Binary, Args: p.CommandLine(), Env: p.Env, Log: p.LogFile(),
		UID: p.UID, GID: p.UID, Hide: p.Hide,
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proc = proc
	return nil
}

// Process returns the running program, or ErrDown.
func (p *Peer) Process() (*lab.Process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return nil, ErrDown
	}
	select {
	case <-p.proc.Done():
		return nil, ErrDown
	default:
		return p.proc, nil
	}
}

// Last returns the program that runs or ran last, nil if there was none.
func (p *Peer) Last() *lab.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proc
}

// Kill ends meshd as kill -9 does.
func (p *Peer) Kill() error {
	proc, err := p.Process()
	if err != nil {
		return err
	}
	return proc.Kill()
}

// Freeze stops meshd in its tracks, sockets open; Thaw lets it go on.
func (p *Peer) Freeze() error { return p.signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (p *Peer) Thaw() error { return p.signal(syscall.SIGCONT) }

func (p *Peer) signal(sig syscall.Signal) error {
	proc, err := p.Process()
	if err != nil {
		return err
	}
	return proc.Signal(sig)
}

// Down ends meshd in order, by SIGTERM. An exit code other than 0 and more than
// limit are errors.
func (p *Peer) Down(limit time.Duration) error {
	proc, err := p.Process()
	if err != nil {
		return err
	}
	if err := proc.Stop(limit); err != nil {
		return fmt.Errorf("end meshd on %s: %w", p.NickName, err)
	}
	return nil
}

// Command runs meshd as a client of this peer, in its host's namespace, and
// returns what it prints on standard output. The error has what it printed on
// standard error.
func (p *Peer) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.Binary, slices.Concat([]string{"--socket", p.Socket()}, args)...)
	cmd.Env = append(os.Environ(), p.Env...)
	var out []byte
	err := p.Host.Do(func() (err error) {
		out, err = cmd.Output()
		return err
	})
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), fmt.Errorf("meshd %s: %w: %s", args[0], err, exit.Stderr)
	}
	return string(out), err
}

// Tail returns the last lines of the log, at most max.
func (p *Peer) Tail(max int) []string {
	if proc := p.Last(); proc != nil {
		return proc.Tail(max)
	}
	return nil
}
