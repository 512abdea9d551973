package integration

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demoTime is how long a demo may take.
const demoTime = 2 * time.Minute

// demo runs `meshd demo` with these flags; where the output has a line with these
// words it is interrupted. It returns the output and the exit code.
func demo(t *testing.T, interruptAt string, flags ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), suite.binary, append([]string{"demo"}, flags...)...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tooLong := time.AfterFunc(demoTime, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer tooLong.Stop()
	var out strings.Builder
	lines := bufio.NewScanner(io.TeeReader(pipe, &out))
	for lines.Scan() {
		if interruptAt != "" && strings.Contains(lines.Text(), interruptAt) {
			cmd.Process.Signal(syscall.SIGINT)
			cmd.Process.Signal(syscall.SIGINT) // impatient
		}
	}
	err = cmd.Wait()
	if strings.Contains(stderr.String(), "another demo is running") || strings.Contains(stderr.String(), "left up with --keep") {
		t.Skipf("there is a demo on this machine: %s", stderr.String())
	}
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return out.String() + stderr.String(), code
}

// nothingLeft looks for what a demo makes.
func nothingLeft(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/meshd-demo*", "/run/meshd-lab/meshd-demo*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestDemo runs the whole story, and one that is interrupted. One demo at a time
// runs on a machine.
func TestDemo(t *testing.T) {
	t.Parallel()
	t.Run("whole", func(t *testing.T) {
		out, code := demo(t, "")
		if code != 0 {
			t.Fatalf("exit code %d, want 0:\n%s", code, out)
		}
		for _, want := range []string{
			"full mesh: weave02 and weave03", "weave02 and weave03 go on", "weave01 and its container are back",
			"weave01 back after", "no namespace, process or file of the demo is left",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("output has no %q:\n%s", want, out)
			}
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("output to a pipe has escape sequences:\n%q", out)
		}
		nothingLeft(t)
	})
	t.Run("NAT", func(t *testing.T) {
		out, code := demo(t, "", "--nat")
		if code != 0 {
			t.Fatalf("exit code %d, want 0:\n%s", code, out)
		}
		for _, want := range []string{
			"direct over", "NAT with endpoint-independent mapping", "healed", "the direct way goes on",
			"no namespace, process or file of the demo is left",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("output has no %q:\n%s", want, out)
			}
		}
		nothingLeft(t)
	})
	t.Run("kept", func(t *testing.T) {
		out, code := demo(t, "", "--keep")
		defer demo(t, "", "--remove") // should the test end before it does
		if code != 0 || !strings.Contains(out, "demo --remove") {
			t.Fatalf("exit code %d, want 0, and to be told how to remove it:\n%s", code, out)
		}
		status := exec.Command(suite.binary, "--socket", "/run/meshd-lab/meshd-demo/weave02/api.sock", "status")
		if said, err := status.CombinedOutput(); err != nil || !strings.Contains(string(said), "weave02") {
			t.Errorf("status of weave02 after the demo = %v: %s", err, said)
		}
		if out, code := demo(t, "", "--remove"); code != 0 || !strings.Contains(out, "removed") {
			t.Errorf("demo --remove: exit code %d: %s", code, out)
		}
		nothingLeft(t)
		if out, code := demo(t, "", "--remove"); code != 0 || !strings.Contains(out, "no demo") {
			t.Errorf("second demo --remove: exit code %d: %s", code, out)
		}
	})
	for _, at := range []string{"Build the network", "The mesh forms", "weave01 is dead"} {
		t.Run("interrupted at "+at, func(t *testing.T) {
			out, code := demo(t, at)
			if code != 1 || !strings.Contains(out, "interrupted") || strings.Contains(out, "Summary") {
				t.Errorf("exit code %d, want 1, and to be told:\n%s", code, out)
			}
			nothingLeft(t)
		})
	}
}
