package enginetest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// Container is one of an Engine's.
type Container struct {
	ID, Name string

	engine  *Engine
	options Options

	mu    sync.Mutex // guards what follows; taken before Engine.mu
	cmd   *exec.Cmd  // nil: it does not run
	stdin io.Closer
}

// PID is its process, 0 when it does not run.
func (c *Container) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return 0
	}
	return c.cmd.Process.Pid
}

// NetNS is the path of its network namespace, while it runs.
func (c *Container) NetNS() string { return fmt.Sprintf("/proc/%d/ns/net", c.PID()) }

// Start starts it. It takes root, unless it is on the host's network.
func (c *Container) Start() {
	c.engine.t.Helper()
	if err := c.start(); err != nil {
		c.engine.t.Fatalf("start container %s: %v", c.Name, err)
	}
	c.tell("start")
}

func (c *Container) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		return fmt.Errorf("it runs")
	}
	// cat ends with its input, so that nothing is left of a test that was killed.
	cmd := exec.Command("cat")
	mode := c.options.NetworkMode
	other, shares := strings.CutPrefix(mode, "container:")
	switch {
	case shares:
		// No setns between fork and exec in Go: nsenter is what does it.
		of := c.engine.named(other)
		if of == nil || of.PID() == 0 {
			return fmt.Errorf("%s does not run", other)
		}
		cmd = exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", of.PID()), "cat")
	case mode != "host":
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmd, c.stdin = cmd, stdin
	return nil
}

// Stop ends it.
func (c *Container) Stop() {
	if c.end() {
		c.tell("die")
		c.tell("stop")
	}
}

// Restart ends it and starts it: the same container with a new process and namespace.
func (c *Container) Restart() {
	c.engine.t.Helper()
	c.Stop()
	c.Start()
	c.tell("restart")
}

// Remove ends it and takes it away.
func (c *Container) Remove() {
	c.Stop()
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, other := range e.containers {
		if other == c {
			e.containers = append(e.containers[:i:i], e.containers[i+1:]...)
			e.tellLocked(c, "destroy")
			return
		}
	}
}

// Kill kills its process, and waits for it; the engine does not notice. What it tells
// of the container is wrong from now on.
func (c *Container) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
}

// end ends the process and reports whether there was one.
func (c *Container) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return false
	}
	c.stdin.Close()
	c.cmd.Process.Kill()
	c.cmd.Wait()
	c.cmd = nil
	return true
}

func (c *Container) tell(action string) {
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	c.engine.tellLocked(c, action)
}
