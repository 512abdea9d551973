package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// beMeshd makes the test binary be meshd, so that tests can run it as another
// user.
const beMeshd = "MESHD_TEST_BE_MESHD"

func TestMain(m *testing.M) {
	if os.Getenv(beMeshd) != "" {
		main()
		return
	}
	// What the machine has set must not reach the tests, but for offloads, without
	// which all must work too.
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasSuffix(name, "_OFFLOAD") {
			continue
		} else if strings.HasPrefix(name, "MESHD_") || name == "WEAVE_PASSWORD" {
			os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

// runAsNobody runs meshd without any rights.
func runAsNobody(t *testing.T, args ...string) (stderr string, code int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test binary lies where nobody may look.
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	copied := filepath.Join(dir, "meshd")
	if err := errors.Join(os.WriteFile(copied, data, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), copied, args...)
	cmd.Env = append(os.Environ(), beMeshd+"=1")
	cmd.Dir = "/"
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err = cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return errs.String(), cmd.ProcessState.ExitCode()
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestExitCodes(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.yaml")
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := errors.Join(
		os.WriteFile(good, []byte("peers: [10.0.0.9]\n"), 0o600),
		os.WriteFile(bad, []byte("briddge: {name: x}\nmin_protocol: 7\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(shortDir(t), "none.sock")
	tests := []struct {
		args string
		code int
		want string // in stderr where code is not 0, else in stdout
	}{
		{"", exitOK, "Usage:"},
		{"--help", exitOK, "Usage:"},
		{"version", exitOK, "meshd "},
		{"completion bash", exitOK, "complete"},
		{"config check " + good, exitOK, good + " is good\n"},
		{"config show --config " + good, exitOK, "10.0.0.9"},
		{"config show --bridge-name br9", exitOK, "name: br9 # --bridge-name"},
		{"config show --socket /run/other.sock", exitOK, "socket: /run/other.sock"},
		{"config check " + bad, exitFailure, "did you mean `bridge`?"},
		{"config check " + bad, exitFailure, "min_protocol"},
		{"config check /does/not/exist", exitFailure, "/does/not/exist"},
		{"up --config " + bad, exitFailure, "min_protocol"},
		{"status --socket " + nowhere, exitFailure, "no meshd is running here"},
		{"nothing", exitUsage, `unknown command "nothing"`},
		{"statsu", exitUsage, "statsu"},
		{"status nothing", exitUsage, `unknown command "nothing"`},
		{"status --nothing", exitUsage, "unknown flag"},
		{"status peers extra", exitUsage, "extra"},
		{"connect", exitUsage, "too few words: write `meshd connect PEER...`\n"},
		{"forget", exitUsage, "too few words: write `meshd forget PEER...`\n"},
		{"attach httpd", exitUsage, "too few words: write `meshd attach CIDR... CONTAINER`\n"},
		{"publish 80:httpd", exitUsage, "the port of the target is missing"},
		{"unpublish 80000", exitUsage, "give a number from 1 to 65535"},
		{"unpublish 80:httpd:80 x", exitUsage, "too many words: write `meshd unpublish "},
		{"config check", exitUsage, "too few words: write `meshd config check FILE`\n"},
		{"config", exitUsage, "needs one of: check, show"},
		{"transport", exitUsage, "needs one of: list, stats"},
		{"transport nothing", exitUsage, `unknown command "nothing" for "meshd transport"; there are: list, stats`},
		{"up --bridge-mtu many", exitUsage, "invalid argument"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			stdout, stderr, code := runCLI(t.Context(), strings.Fields(tt.args)...)
			where := stderr
			if tt.code == exitOK {
				where = stdout
			}
			if code != tt.code || !strings.Contains(where, tt.want) {
				t.Errorf("exit code %d\nstdout: %s\nstderr: %s\nwant %d, %q", code, stdout, stderr, tt.code, tt.want)
			}
			if tt.code != exitOK && stdout != "" {
				t.Errorf("stdout of a failure = %q", stdout)
			}
			if tt.code == exitFailure && strings.Contains(stderr, "Usage:") {
				t.Errorf("a failure prints usage:\n%s", stderr)
			}
		})
	}
}

func TestSocketPath(t *testing.T) {
	if got := socketPath(""); got != defaultSocket {
		t.Errorf("socketPath = %s, want %s", got, defaultSocket)
	}
	t.Setenv(socketEnv, "/run/env.sock")
	if got := socketPath(""); got != "/run/env.sock" {
		t.Errorf("with the environment = %s", got)
	}
	if got := socketPath("/run/flag.sock"); got != "/run/flag.sock" {
		t.Errorf("with a flag = %s", got)
	}
}

func TestCommands(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	path := startServer(t, d)
	t.Setenv(socketEnv, path)
	tests := []struct{ args, want string }{
		{"status", "OK       3 peers, 2 neighbours, all with a working path\n"},
		{"status connections", "-> 10.142.130.17:6783    established encrypted   sleeve 02:00:00:00:00:02(weave02) encrypted=truemtu=1414\n"},
		{"status peers", "02:00:00:00:00:02(weave02)\n"},
		{"status targets", "10.142.130.17\n"},
		{"status macs", "02:00:00:00:09:01  02:00:00:00:00:01  weave01"},
		{"status routes", "02:00:00:00:00:02  weave02   direct\n"},
		{"transport list", "    1  sleeve     :6783"},
		{"transport stats", "weave02   sleeve     active  10.142.130.17:6783"},
		{"transport stats weave03", "~1.83ms"},
		{"report", `    "Ready": true,`},
		{"report -f {{.Router.NickName}}", "weave01\n"},
		{"reload", "changed, but takes effect after a restart: listen: :6783 -> :6784"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			stdout, stderr, code := runCLI(t.Context(), strings.Fields(tt.args)...)
			if code != exitOK || !strings.Contains(stdout, tt.want) || stderr != "" {
				t.Errorf("exit code %d\n%s%s\nwant %q", code, stdout, stderr, tt.want)
			}
		})
	}
}

func TestStatsOfSomePeers(t *testing.T) {
	t.Setenv(socketEnv, startServer(t, newFakeDaemon(healthyReport())))
	stdout, _, _ := runCLI(t.Context(), "transport", "stats", "02:00:00:00:00:03")
	if strings.Contains(stdout, "weave02") || !strings.Contains(stdout, "weave03") {
		t.Errorf("stats of weave03:\n%s", stdout)
	}
	_, stderr, code := runCLI(t.Context(), "transport", "stats", "nobody")
	if code != exitFailure || stderr != "meshd: no peer has the name, nickname or address nobody\n" {
		t.Errorf("stats of nobody = %d, %q", code, stderr)
	}
}

func TestJSONOfCommands(t *testing.T) {
	t.Setenv(socketEnv, startServer(t, newFakeDaemon(healthyReport())))
	for args, want := range map[string]int{
		"status --json": 0, "status connections --json": 2, "status peers --json": 3, "status targets --json": 1,
		"status macs --json": 2, "status routes --json": 0, "transport list --json": 1, "transport stats --json": 2,
	} {
		t.Run(args, func(t *testing.T) {
			stdout, stderr, code := runCLI(t.Context(), strings.Fields(args)...)
			if code != exitOK {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			var got any
			if err := json.Unmarshal([]byte(stdout), &got); err != nil {
				t.Fatal(err)
			}
			list, isList := got.([]any)
			if len(list) != want || isList != (want > 0) {
				t.Errorf("%d entries, want %d:\n%s", len(list), want, stdout)
			}
		})
	}
	// One line per second for other programs.
	ctx, cancel := context.WithCancel(t.Context())
	var out cancelAtLine
	out.cancel = cancel
	var errs strings.Builder
	if code := execute(ctx, []string{"status", "--json", "--watch"}, &out, &errs); code != exitOK {
		t.Errorf("exit code of an interrupted watch = %d: %s", code, errs.String())
	}
	if bytes.Count(out.Bytes(), []byte("\n")) != 1 || !json.Valid(out.Bytes()) {
		t.Errorf("watch printed %q", out.String())
	}
}

// cancelAtLine is an operator who presses Ctrl-C at the first output.
type cancelAtLine struct {
	bytes.Buffer
	cancel func()
}

func (c *cancelAtLine) Write(p []byte) (int, error) {
	defer c.cancel()
	return c.Buffer.Write(p)
}

func TestConnectAndForgetCommands(t *testing.T) {
	d := newFakeDaemon(healthyReport())
	t.Setenv(socketEnv, startServer(t, d))
	stdout, stderr, code := runCLI(t.Context(), "connect", "weave03", "10.0.0.9", "--replace")
	targets, replace := d.asked()
	if want := []string{"10.107.153.153:6783", "10.0.0.9"}; code != exitOK || !slices.Equal(targets, want) || !replace {
		t.Errorf("connect = %d %s, asked for %v %v, want %v", code, stderr, targets, replace, want)
	}
	if stdout != "10.107.153.153:6783, 10.0.0.9 now are all of the targets\n" {
		t.Errorf("connect printed %q", stdout)
	}
	stdout, stderr, code = runCLI(t.Context(), "forget", "weave02")
	if targets, _ = d.asked(); code != exitOK || !slices.Equal(targets, []string{"10.142.130.17"}) {
		t.Errorf("forget = %d %s, asked for %v", code, stderr, targets)
	}
	if stdout != "10.142.130.17 removed from the targets\n" {
		t.Errorf("forget printed %q", stdout)
	}
	d.mu.Lock()
	d.fail = errRefused
	d.mu.Unlock()
	for _, args := range []string{"connect 10.0.0.9", "forget weave02", "reload"} {
		_, stderr, code = runCLI(t.Context(), strings.Fields(args)...)
		if code != exitFailure || stderr != "meshd: refused for a test\n" {
			t.Errorf("%s = %d %q", args, code, stderr)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Setenv(socketEnv, startServer(t, newFakeDaemon(healthyReport())))
	for args, want := range map[string]string{
		"__complete connect ":         "weave02\t02:00:00:00:00:02\n",
		"__complete transport stats ": "02:00:00:00:00:03\tweave03\n",
		"__complete forget ":          "10.142.130.17\n",
	} {
		stdout, _, code := runCLI(t.Context(), append(strings.Fields(args), "")...)
		if code != exitOK || !strings.Contains(stdout, want) || strings.Contains(stdout, "weave01\t") {
			t.Errorf("%s= %d\n%s\nwant %q", args, code, stdout, want)
		}
	}
	t.Setenv(socketEnv, "/does/not/exist")
	if _, _, code := runCLI(t.Context(), "__complete", "connect", ""); code != exitOK {
		t.Errorf("completion without a daemon = %d", code)
	}
}

func TestVersion(t *testing.T) {
	stdout, _, _ := runCLI(t.Context(), "version", "--json")
	var v Version
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || v.Version == "" || !strings.HasPrefix(v.Go, "go1.") {
		t.Errorf("version --json = %s, %v", stdout, err)
	}
	var out strings.Builder
	v = Version{Version: "v1.2.3", Go: "go1.26", Platform: "linux/amd64", Commit: "0123456789abcdef", Modified: true}
	if err := v.write(&out); err != nil || out.String() != "meshd v1.2.3 go1.26 linux/amd64 commit 0123456789ab (modified)\n" {
		t.Errorf("write = %q, %v", out.String(), err)
	}
}

func TestLogger(t *testing.T) {
	var out strings.Builder
	level := new(slog.LevelVar)
	log := newLogger(&out, level)
	log.Debug("hidden")
	level.Set(slog.LevelDebug)
	log.Debug("shown", "peer", testName(1))
	var line map[string]any
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil || line["msg"] != "shown" || line["peer"] != "02:00:00:00:00:01" {
		t.Errorf("log = %q, %v", out.String(), err)
	}
}
