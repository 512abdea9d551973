package packaging

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// fakeEnv names the directory of a world: what fakes read, and where they write.
const fakeEnv = "FAKE_WORLD"

// TestMain makes the test binary be docker or meshd where it is called so.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	if dir := os.Getenv(fakeEnv); dir != "" && (name == "docker" || name == "meshd") {
		os.Exit(fake(dir, name, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// world is what the fakes answer.
type world struct {
	Containers map[string]containerState // that docker knows
	Answers    []answer                  // the first that fits; else nothing and exit code 0
}

// containerState is what docker inspect shows, as far as mesh asks.
type containerState struct {
	ID     string `json:"Id"`
	Image  string
	State  struct{ Running bool }
	Config struct{ Labels map[string]string }

	RestartCount int
}

// answer is what a fake does when it is called with these words first.
type answer struct {
	Call   []string // program and first arguments
	Stdout string
	Stderr string
	Code   int
	Stay   bool // until it is ended; `meshd status` works meanwhile
}

// call is one call of a fake.
type call struct {
	Argv []string
	Env  map[string]string // those that matter
}

func fake(dir, name string, args []string) int {
	c := call{Argv: append([]string{name}, args...), Env: map[string]string{}}
	for _, key := range []string{"MESHD_PASSWORD", "MESHD_API_SOCKET", "DOCKER_HOST"} {
		if v, set := os.LookupEnv(key); set {
			c.Env[key] = v
		}
	}
	var w world
	data, err := os.ReadFile(filepath.Join(dir, "world.json"))
	if err == nil {
		err = json.Unmarshal(data, &w)
	}
	if err == nil {
		err = record(dir, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake:", err)
		return 99
	}
	if name == "docker" && args[0] == "inspect" {
		return inspect(w, args)
	}
	if name == "meshd" && slices.Equal(args, []string{"status"}) && slices.ContainsFunc(w.Answers, func(a answer) bool { return a.Stay }) {
		if _, err := os.Stat(filepath.Join(dir, "up")); err != nil {
			return 1
		}
		return 0
	}
	for _, a := range w.Answers {
		if len(a.Call) <= len(c.Argv) && slices.Equal(a.Call, c.Argv[:len(a.Call)]) {
			fmt.Print(a.Stdout)
			fmt.Fprint(os.Stderr, a.Stderr)
			if a.Stay {
				stay(dir)
			}
			return a.Code
		}
	}
	return 0
}

// stay is a daemon's life.
func stay(dir string) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	os.WriteFile(filepath.Join(dir, "up"), nil, 0o600)
	select {
	case <-end:
	case <-time.After(time.Minute):
	}
}

func record(dir string, c call) error {
	f, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return json.NewEncoder(f).Encode(c)
}

// inspect is `docker inspect --type container -f FORMAT -- NAME`.
func inspect(w world, args []string) int {
	if len(args) != 7 || args[1] != "--type" || args[3] != "-f" || args[5] != "--" {
		fmt.Fprintf(os.Stderr, "fake: docker %q\n", args)
		return 99
	}
	return show(w, args[6], args[4])
}

func show(w world, name, format string) int {
	state, ok := w.Containers[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "Error: No such container:", name)
		return 1
	}
	data, _ := json.Marshal(state)
	var fields map[string]any
	json.Unmarshal(data, &fields)
	if err := template.Must(template.New("").Parse(format+"\n")).Execute(os.Stdout, fields); err != nil {
		return 1
	}
	return 0
}

// stage is where the script runs: a PATH with nothing but fakes and the few tools that
// it may use.
type stage struct {
	dir  string
	path string
}

// tools are all that the script needs beside docker, meshd and the shell.
var tools = []string{"cat", "env", "id", "mkdir", "mv", "rm", "sed", "setsid", "sleep", "tail"}

func newStage(t *testing.T, w world, programs ...string) stage {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := stage{dir: t.TempDir()}
	s.path = filepath.Join(s.dir, "bin")
	if err := os.Mkdir(s.path, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		s.link(t, self, p)
	}
	for _, tool := range tools {
		at, err := exec.LookPath(tool)
		if err != nil {
			t.Skip("needs ", tool)
		}
		s.link(t, at, tool)
	}
	for _, name := range []string{"mesh", "weave"} {
		script, err := filepath.Abs("../mesh")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(script, filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "world.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s stage) link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(s.path, name)); err != nil {
		t.Fatal(err)
	}
}

func (s stage) state() string { return filepath.Join(s.dir, "state") }

// result is how the script ended.
type result struct {
	stdout, stderr string
	code           int
	calls          []call
}

// run runs the script by one of its names in a shell.
func (s stage) run(t *testing.T, shell []string, name string, env map[string]string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shell[0], slices.Concat(shell[1:], []string{filepath.Join(s.dir, name)}, args)...)
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + s.path, fakeEnv + "=" + s.dir, "MESH_STATE_DIR=" + s.state(), "MESH_LAUNCH_TIMEOUT=5",
		"MESH_LOG_FILE=" + filepath.Join(s.dir, "log"), "MESHD_API_SOCKET=/run/meshd.sock",
	}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), s.calls(t)}
}

// calls are all calls of fakes, but those that only look.
func (s stage) calls(t *testing.T) (out []call) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "calls"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		var c call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		if c.Argv[0] == "docker" && slices.Contains([]string{"inspect", "version", "image"}, c.Argv[1]) {
			continue
		}
		out = append(out, c)
	}
	return out
}

// shells are those that the script must run in; what is missing is left out.
func shells(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for name, command := range map[string][]string{"dash": {"dash"}, "busybox": {"busybox", "sh"}, "bash": {"bash", "--posix"}} {
		if path, err := exec.LookPath(command[0]); err == nil {
			found[name] = append([]string{path}, command[1:]...)
		}
	}
	if len(found) == 0 {
		t.Skip("there is no shell to run it in")
	}
	return found
}
