package packaging

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("needs shellcheck")
	}
	for _, script := range []string{"../mesh", "deb/postinst", "deb/prerm", "deb/postrm"} {
		if out, err := exec.Command("shellcheck", "--shell=sh", script).CombinedOutput(); err != nil {
			t.Errorf("shellcheck %s: %v\n%s", script, err, out)
		}
	}
}

// hostile are words that a shell script may trip over.
var hostile = []string{"a b", `"q'`, "$(touch pwned)", "`touch pwned`", "*", "-x", "--", "", `\`, "line\nbreak", "; exit 7", strings.Repeat("x", 300)}

// state is a container as docker inspect shows it.
func state(running, ours bool) containerState {
	s := containerState{ID: "c0ffee", Image: "sha256:1234"}
	s.State.Running = running
	if ours {
		s.Config.Labels = map[string]string{"meshd.router": "yes"}
	}
	return s
}

// launched is a host where meshd runs in its container.
func launched(answers ...answer) world {
	return world{Containers: map[string]containerState{"meshd": state(true, true)}, Answers: answers}
}

// stopped is a host where meshd's container was stopped.
func stopped(answers ...answer) world {
	return world{Containers: map[string]containerState{"meshd": state(false, true)}, Answers: answers}
}

// both are the programs of a host where Docker and meshd are installed.
var both = []string{"docker", "meshd"}

// onHost is the environment where a daemon's socket is on the host.
func onHost(t *testing.T) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meshd.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return map[string]string{"MESHD_API_SOCKET": path}
}

// inContainer is a command of meshd as it is run in the container.
func inContainer(args ...string) []string {
	return append([]string{"docker", "exec", "--", "meshd", "/meshd"}, args...)
}

const newID = "f00dfeed\n"

func TestMesh(t *testing.T) {
	noImage := world{Answers: []answer{{Call: []string{"docker", "image"}, Code: 1}}}
	down := world{Answers: []answer{{Call: []string{"docker"}, Stderr: "Cannot connect to the Docker daemon\n", Code: 1}}}
	created := answer{Call: []string{"docker", "run", "-d"}, Stdout: newID}
	tests := []struct {
		name    string
		as      string // mesh if empty
		world   world
		env     map[string]string
		args    []string
		calls   [][]string
		stdout  string
		stderr  string // is in it; empty: nothing is
		code    int
		pretend []string // programs; docker if empty
	}{
		{name: "help", args: []string{"help"}, stdout: "usage: mesh COMMAND\n"},
		{name: "help of a command", world: launched(), args: []string{"launch", "--help"}, stdout: "usage: mesh COMMAND\n"},
		{name: "help of run", world: launched(), args: []string{"run", "-h"}, stdout: "usage: mesh COMMAND\n"},
		{name: "nothing", stderr: "usage: mesh COMMAND", code: 1},
		{name: "unknown command", args: []string{"frobnicate"}, stderr: "unknown command 'frobnicate'", code: 2},

		{name: "status", world: launched(), args: []string{"status", "peers", "--json"}, calls: [][]string{inContainer("status", "peers", "--json")}},
		{name: "a failure's exit code", world: launched(answer{Call: []string{"docker", "exec"}, Code: 4, Stderr: "no\n"}), args: []string{"why", "weave09"},
			calls: [][]string{inContainer("why", "weave09")}, stderr: "no", code: 4},
		{name: "not launched", args: []string{"status"}, stderr: "meshd container is not present. Have you launched it?", code: 1},
		{name: "stopped", world: stopped(), args: []string{"status"},
			stderr: "meshd container is not running. Start it with 'mesh launch'.", code: 1},
		{name: "another name", env: map[string]string{"WEAVE_CONTAINER_NAME": "weave"}, args: []string{"ps"}, stderr: "weave container is not present", code: 1},
		{name: "mesh name first", env: map[string]string{"WEAVE_CONTAINER_NAME": "weave", "MESH_CONTAINER_NAME": "mine"}, args: []string{"ps"}, stderr: "mine container is not present", code: 1},
		{name: "no docker, no meshd", pretend: []string{"none"}, args: []string{"status"}, stderr: "there is neither Docker nor 'meshd' on this host", code: 1},
		{name: "process", pretend: []string{"docker", "meshd"}, env: map[string]string{"MESH_NO_CONTAINER": "1"}, args: []string{"ping", "-c", "1", "x y"},
			calls: [][]string{{"meshd", "ping", "-c", "1", "x y"}}},
		{name: "hostile words", world: launched(), args: append([]string{"connect"}, hostile...), calls: [][]string{inContainer(append([]string{"connect"}, hostile...)...)}},
		{name: "words for docker itself", world: launched(), env: map[string]string{"DOCKER_CLIENT_ARGS": "--context far"}, args: []string{"nat"},
			calls:  [][]string{{"docker", "--context", "far", "inspect", "--type", "container", "-f", "{{.State.Running}}", "--", "meshd"}, {"docker", "--context", "far", "version"}},
			stderr: "not present", code: 1},

		{name: "expose", as: "weave", world: launched(), args: []string{"expose", "ip:10.2.1.1/24", "-h", "host.weave.local", "--without-masquerade"},
			calls: [][]string{inContainer("expose", "10.2.1.1/24", "--no-masquerade")}, stderr: "weave: ignored, as it has no meaning for meshd: -h host.weave.local"},
		{name: "attach", world: launched(), args: []string{"attach", "--without-dns", "--rewrite-hosts", "--no-multicast-route", "10.2.1.1/24", "a b"},
			calls: [][]string{inContainer("attach", "--no-multicast-route", "10.2.1.1/24", "a b")}, stderr: "--without-dns, --rewrite-hosts"},
		{name: "attach a network", world: launched(), args: []string{"attach", "net:default", "c"}, stderr: "net:default: meshd does not allocate addresses", code: 1},
		{name: "detach option-like", world: launched(), args: []string{"detach", "--", "-h"}, calls: [][]string{inContainer("detach", "--", "-h")}},
		{name: "publish", world: launched(), args: []string{"publish", "80:web:80"}, calls: [][]string{inContainer("publish", "80:web:80")}},

		{name: "run", world: launched(created), args: append([]string{"run", "10.2.1.1/24", "ip:10.3.1.1/24", "fd00::1/64", "-d"}, hostile...),
			calls: [][]string{inContainer("status"), append([]string{"docker", "run", "-d", "-d"}, hostile...),
				inContainer("attach", "10.2.1.1/24", "10.3.1.1/24", "fd00::1/64", "--", "f00dfeed")}, stdout: newID},
		{name: "run without multicast", world: launched(created), args: []string{"run", "--without-dns", "--no-multicast-route", "10.2.1.1/24", "img"},
			calls:  [][]string{inContainer("status"), {"docker", "run", "-d", "img"}, inContainer("attach", "--no-multicast-route", "10.2.1.1/24", "--", "f00dfeed")},
			stdout: newID, stderr: "--without-dns"},
		{name: "run, attach fails", world: launched(created, answer{Call: inContainer("attach"), Stderr: "meshd: 10.2.1.1 is in use\nSee `meshd attach --help`.\n", Code: 1}), args: []string{"run", "10.2.1.1/24", "img"},
			calls:  [][]string{inContainer("status"), {"docker", "run", "-d", "img"}, inContainer("attach", "10.2.1.1/24", "--", "f00dfeed"), {"docker", "rm", "-f", "-v", "--", "f00dfeed"}},
			stderr: "mesh: 10.2.1.1 is in use; the container has been removed again\n", code: 1},
		{name: "run, docker cannot start it", world: launched(answer{Call: []string{"docker", "run"}, Stdout: newID, Stderr: "no such file\n", Code: 127}), args: []string{"run", "10.2.1.1/24", "img"},
			calls:  [][]string{inContainer("status"), {"docker", "run", "-d", "img"}, {"docker", "rm", "-f", "-v", "--", "f00dfeed"}},
			stderr: "no such file", code: 127},
		{name: "run where meshd is a process", pretend: both, world: world{Answers: []answer{created}}, env: map[string]string{"MESH_NO_CONTAINER": "1"}, args: []string{"run", "10.2.1.1/24", "img"},
			calls:  [][]string{{"meshd", "status"}, {"docker", "run", "-d", "img"}, {"meshd", "attach", "10.2.1.1/24", "--", "f00dfeed"}},
			stdout: newID},
		{name: "run without Docker", pretend: []string{"meshd"}, args: []string{"run", "10.2.1.1/24", "img"}, stderr: "run needs Docker", code: 1},
		{name: "run, docker refuses", world: launched(answer{Call: []string{"docker", "run"}, Stderr: "name in use\n", Code: 125}), args: []string{"run", "10.2.1.1/24", "--name", "x", "img"},
			calls: [][]string{inContainer("status"), {"docker", "run", "-d", "--name", "x", "img"}}, stderr: "name in use", code: 125},
		{name: "run while meshd is away", world: launched(answer{Call: inContainer("status"), Stderr: "meshd: no\n", Code: 1}), args: []string{"run", "10.2.1.1/24", "img"},
			calls: [][]string{inContainer("status")}, stderr: "meshd: no", code: 1},
		{name: "run without address", world: launched(), args: []string{"run", "-d", "img"}, stderr: "run needs an address first", code: 2},
		{name: "run without image", world: launched(), args: []string{"run", "10.2.1.1/24"}, stderr: "run needs an address and what docker run needs", code: 2},
		{name: "run on a network", world: launched(), args: []string{"run", "net:10.2.0.0/16", "img"}, stderr: "does not allocate", code: 1},
		{name: "address from the environment", world: launched(created), env: map[string]string{"WEAVE_CIDR": "10.2.1.7/24 ip:10.3.1.7/24"}, args: []string{"run", "img"},
			calls: [][]string{inContainer("status"), {"docker", "run", "-d", "img"}, inContainer("attach", "10.2.1.7/24", "10.3.1.7/24", "--", "f00dfeed")}, stdout: newID},
		{name: "address from the container's", world: launched(created), env: map[string]string{"WEAVE_CIDR": "10.2.1.7/24"}, args: []string{"run", "-e", "WEAVE_CIDR=10.2.1.8/24", "img"},
			calls:  [][]string{inContainer("status"), {"docker", "run", "-d", "-e", "WEAVE_CIDR=10.2.1.8/24", "img"}, inContainer("attach", "10.2.1.8/24", "--", "f00dfeed")},
			stdout: newID},
		{name: "none", world: launched(created), args: []string{"run", "--env=WEAVE_CIDR=none", "img"}, calls: [][]string{{"docker", "run", "-d", "--env=WEAVE_CIDR=none", "img"}}, stdout: newID},

		{name: "start", world: world{Containers: map[string]containerState{"meshd": state(true, true), "c1": state(false, false)}, Answers: []answer{{Call: []string{"docker", "start"}, Stdout: "c1\n"}}},
			args:  []string{"start", "10.2.1.1/24", "c1"},
			calls: [][]string{inContainer("status"), {"docker", "start", "--", "c1"}, inContainer("attach", "10.2.1.1/24", "--", "c1")}, stdout: "c1\n"},
		{name: "start, attach fails", world: world{Containers: map[string]containerState{"meshd": state(true, true), "c1": state(false, false)}, Answers: []answer{{Call: inContainer("attach"), Stderr: "meshd: in use\n", Code: 1}}},
			args:   []string{"start", "10.2.1.1/24", "c1"},
			calls:  [][]string{inContainer("status"), {"docker", "start", "--", "c1"}, inContainer("attach", "10.2.1.1/24", "--", "c1"), {"docker", "stop", "--", "c1"}},
			stderr: "in use", code: 1},
		{name: "start what there is not", world: launched(), args: []string{"start", "10.2.1.1/24", "-x"}, calls: [][]string{inContainer("status")}, stderr: "No such container: -x", code: 1},

		{name: "stop", world: launched(), args: []string{"stop"}, calls: [][]string{{"docker", "stop", "--", "meshd"}}},
		{name: "stop twice", args: []string{"stop"}, stderr: "meshd is not running."},
		{name: "stop as process", pretend: []string{"meshd"}, args: []string{"stop"}, calls: [][]string{{"meshd", "down", "--keep-bridge"}}},
		{name: "reset as process", pretend: []string{"meshd"}, args: []string{"reset"}, calls: [][]string{{"meshd", "down", "--force"}}},
		{name: "stop a process beside a stopped container", pretend: both, world: stopped(), env: onHost(t), args: []string{"stop"},
			calls: [][]string{{"meshd", "status"}, {"meshd", "down", "--keep-bridge"}}},
		{name: "reset a process beside a stopped container", pretend: both, world: stopped(), env: onHost(t), args: []string{"reset"},
			calls: [][]string{{"meshd", "status"}, {"meshd", "down", "--force"}, {"docker", "rm", "--", "meshd"}}},
		{name: "stop, a dead daemon's socket", pretend: both, world: stopped(answer{Call: []string{"meshd", "status"}, Code: 1}), env: onHost(t), args: []string{"stop"},
			calls: [][]string{{"meshd", "status"}}, stderr: "meshd is not running."},
		{name: "reset, bad option", world: launched(), args: []string{"reset", "--hard"}, stderr: "no arguments but --force", code: 2},
		{name: "logs", world: launched(), args: []string{"logs", "-f"}, calls: [][]string{{"docker", "logs", "-f", "meshd"}}},
		{name: "version", args: []string{"version"}, calls: [][]string{{"docker", "run", "--rm", "--network", "none", "meshd", "version"}}},

		{name: "launch without the image", world: noImage, args: []string{"launch"}, stderr: "mesh: there is no image 'meshd' on this host: build it with 'make image', or name one with MESH_IMAGE\n", code: 1},
		{name: "an image of a registry is docker's to find", world: noImage, env: map[string]string{"MESH_IMAGE": "reg/meshd:1"}, args: []string{"version"},
			calls: [][]string{{"docker", "run", "--rm", "--network", "none", "reg/meshd:1", "version"}}},
		{name: "reset without the image", world: noImage, args: []string{"reset"}, stderr: "there is no image 'meshd'", code: 1},
		{name: "reset where Docker is down", world: down, args: []string{"reset"}, stderr: "Docker does not answer: start it or run this as root", code: 1},
		{name: "launch where Docker is down", world: down, args: []string{"launch"}, stderr: "Docker does not answer: start it or run this as root", code: 1},
		{name: "version where Docker is down", world: down, args: []string{"version"}, stderr: "Docker does not answer", code: 1},

		{name: "dns", as: "weave", args: []string{"dns-add", "x"}, stderr: "The 'weave dns-add' command is not in meshd: it has no DNS", code: 1},
		{name: "ipam", args: []string{"status", "ipam"}, stderr: "does not allocate addresses", code: 1},
		{name: "proxy", args: []string{"env"}, stderr: "it has no Docker proxy", code: 1},
		{name: "setup", args: []string{"setup"}, stderr: "there is nothing to set up"},
	}
	for shell, command := range shells(t) {
		for _, tt := range tests {
			t.Run(shell+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				if tt.pretend == nil {
					tt.pretend = []string{"docker"}
				}
				if tt.as == "" {
					tt.as = "mesh"
				}
				s := newStage(t, tt.world, tt.pretend...)
				got := s.run(t, command, tt.as, tt.env, tt.args...)
				if got.code != tt.code {
					t.Errorf("exit code %d, want %d", got.code, tt.code)
				}
				if strings.HasPrefix(tt.name, "help") {
					got.stdout, _, _ = strings.Cut(got.stdout, "\n")
					got.stdout += "\n"
				}
				if got.stdout != tt.stdout {
					t.Errorf("stdout %q, want %q", got.stdout, tt.stdout)
				}
				if (tt.stderr == "") != (got.stderr == "") || !strings.Contains(got.stderr, tt.stderr) {
					t.Errorf("stderr %q, want %q", got.stderr, tt.stderr)
				}
				checkCalls(t, got.calls, tt.calls)
				if _, err := os.Stat(filepath.Join(s.dir, "pwned")); err == nil {
					t.Error("a word was run as a command")
				}
			})
		}
	}
}

func checkCalls(t *testing.T, got []call, want [][]string) {
	t.Helper()
	argv := make([][]string, len(got))
	for i, c := range got {
		argv[i] = c.Argv
	}
	if !slices.EqualFunc(argv, want, slices.Equal) {
		t.Errorf("calls\n%q\nwant\n%q", argv, want)
	}
}

// What is not an address is refused before anything is started.
func TestRunRefusesAddresses(t *testing.T) {
	for shell, command := range shells(t) {
		for _, bad := range []string{
			"10.2.1.1", "10.2.1.1/", "10.2.1/24", "10.2.1.1/33", "10.2.1.1/024", "10.2.1.256/24", "10.2.1.1.1/24", "10.2..1/24", "010.2.1.1/24", ".10.2.1/24", "10.2.1./24",
			"10.2.1.1/24/24", "/24", "fd00::1/129", "fd00::1/", "ip:10.2.1.1", "ip:x/24", "10.2.1.1/99999999999999999999", "net:default",
		} {
			t.Run(shell+"/"+bad, func(t *testing.T) {
				t.Parallel()
				got := newStage(t, launched(), "docker").run(t, command, "mesh", nil, "run", "10.9.9.9/24", bad, "img")
				if got.code == 0 || len(got.calls) > 0 || strings.Count(got.stderr, bad) == 0 {
					t.Errorf("exit code %d, stderr %q, calls %q", got.code, got.stderr, got.calls)
				}
			})
		}
	}
}

// launch runs the launch command where there is Docker, and returns what docker run got:
// before the image, and behind `up`.
func launch(t *testing.T, s stage, shell []string, as string, env map[string]string, args ...string) (engine, daemon []string, got result) {
	t.Helper()
	got = s.run(t, shell, as, env, append([]string{"launch"}, args...)...)
	for _, c := range got.calls {
		if at := slices.Index(c.Argv, "up"); c.Argv[1] == "run" && at > 0 {
			return c.Argv[3 : at-1], c.Argv[at+1:], got
		}
	}
	return nil, nil, got
}

var launchable = world{Answers: []answer{{Call: []string{"docker", "run", "-d"}, Stdout: newID}}}

func TestLaunch(t *testing.T) {
	tests := []struct {
		name   string
		as     string
		env    map[string]string
		args   []string
		daemon []string // arguments of up
		engine []string // are among those of docker run
		stderr string
		code   int
	}{
		{name: "first host"},
		{name: "peers", args: []string{"10.142.130.16", "quic://w3"}, daemon: []string{"10.142.130.16", "quic://w3"}},
		{name: "options", args: []string{"--name", "02:00:00:00:00:01", "--nickname=a b'$(touch pwned)", "--transports", "punch,sleeve", "w1"},
			daemon: []string{"--name=02:00:00:00:00:01", "--nickname=a b'$(touch pwned)", "--transports=punch,sleeve", "w1"}},
		{name: "any option of up", args: []string{"--quic-listen=:443"}, daemon: []string{"--quic-listen=:443"}},
		{name: "unknown option", args: []string{"--frobnicate"}, stderr: "unknown option --frobnicate", code: 2},
		{name: "value missing", args: []string{"--port"}, stderr: "--port needs a value", code: 2},
		{name: "port", args: []string{"--port", "6799"}, daemon: []string{"--listen=:6799"}},
		{name: "bad port", args: []string{"--port", "ssh"}, stderr: "'ssh' is not a port", code: 2},
		{name: "host", args: []string{"--host", "fd00::1"}, daemon: []string{"--udp-listen=[fd00::1]:6785", "--nat-listen=[fd00::1]:6786", "--listen=[fd00::1]:6783"}},
		{name: "as in 1.x", as: "weave", args: []string{"-nickname", "n", "-port", "6790", "w1"}, daemon: []string{"--listen=:6790", "--nickname=n", "w1"}},
		{name: "as in 0.10", args: []string{"10.0.0.1/16", "w1"}, daemon: []string{"w1"}, stderr: "WARNING: 10.0.0.1/16 is ignored"},
		{name: "as in 2.x", as: "weave",
			args: []string{"--ipalloc-range", "10.32.0.0/12", "--no-dns", "--plugin=false", "--proxy=false", "--trusted-subnets", "10.0.0.0/8", "--conn-limit=50", "--no-discovery",
				"--log-level", "warning", "--no-restart", "--resume", "--mtu", "1300", "w1"},
			daemon: []string{"--bridge-mtu=1300", "--trusted-subnets=10.0.0.0/8", "--connection-limit=50", "--discovery=false", "--log-level=warn", "w1"},
			engine: []string{"--restart no"}, stderr: "weave: ignored, as it has no meaning for meshd: --ipalloc-range, --no-dns, --plugin, --proxy\n"},
		{name: "refused", args: []string{"--awsvpc"}, stderr: "--awsvpc is not in meshd", code: 1},
		{name: "old environment", env: map[string]string{"WEAVE_PORT": "6790", "WEAVE_MTU": "1400", "WEAVE_HTTP_ADDR": "127.0.0.1:6784", "WEAVE_DOCKER_ARGS": "--cpus 1", "WEAVE_CONTAINER_NAME": "weave"},
			daemon: []string{"--api-http=127.0.0.1:6784", "--bridge-mtu=1400", "--listen=:6790"}, engine: []string{"--cpus 1", "--name weave"}},
		{name: "new before old", env: map[string]string{"WEAVE_PORT": "6790", "MESH_PORT": "6791"}, daemon: []string{"--listen=:6791"}},
		{name: "option-like peer", args: []string{"--", "-w1"}, daemon: []string{"--", "-w1"}},
		{name: "meshd's environment", env: map[string]string{"MESHD_LOG_LEVEL": "debug", "X": "\nMESHD_FORGED=1"}, engine: []string{"-e MESHD_LOG_LEVEL"}},
		{name: "image", env: map[string]string{"MESH_IMAGE": "reg/meshd:1"}},
		{name: "engine's socket", env: map[string]string{"DOCKER_HOST": "unix:///srv/docker/d.sock"}, engine: []string{"-e DOCKER_HOST", "--mount type=bind,src=/srv/docker,dst=/srv/docker,readonly"}},
		{name: "config", args: []string{"--config", "/etc/meshd/meshd.yaml", "--password-file", "/etc/hostname"}, daemon: nil, stderr: "", engine: []string{"--mount type=bind,src=/etc/meshd,dst=/etc/meshd,readonly"}},
		{name: "no password file", args: []string{"--password-file", "/no/such"}, stderr: "the password file /no/such cannot be read", code: 1},
		{name: "a path that docker cannot take", args: []string{"--config", "/etc/a,b/c"}, stderr: "has a comma", code: 1},
		{name: "a file in /", args: []string{"--config", "/meshd.yaml"}, stderr: "put it in a directory of its own", code: 1},
	}
	for shell, command := range shells(t) {
		for _, tt := range tests {
			t.Run(shell+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				if tt.as == "" {
					tt.as = "mesh"
				}
				s := newStage(t, launchable, "docker")
				engine, daemon, got := launch(t, s, command, tt.as, tt.env, tt.args...)
				if got.code != tt.code || (tt.stderr == "") != (got.stderr == "") || !strings.Contains(got.stderr, tt.stderr) {
					t.Fatalf("exit code %d, stderr %q, want %d %q", got.code, got.stderr, tt.code, tt.stderr)
				}
				if tt.code != 0 {
					if len(got.calls) > 0 {
						t.Errorf("calls %q", got.calls)
					}
					return
				}
				if got.stdout != newID {
					t.Errorf("stdout %q, want the id", got.stdout)
				}
				// The state directory is one of the test's.
				daemon = slices.DeleteFunc(daemon, func(a string) bool { return a == "--state-dir="+s.state() })
				if tt.name == "config" {
					tt.daemon = []string{"--password-file=/etc/hostname", "--config=/etc/meshd/meshd.yaml"}
				}
				if !slices.Equal(daemon, tt.daemon) {
					t.Errorf("meshd up %q, want %q", daemon, tt.daemon)
				}
				line := strings.Join(engine, " ")
				for _, want := range tt.engine {
					if !strings.Contains(line, want) {
						t.Errorf("docker run %q, want %q", engine, want)
					}
				}
				if strings.Contains(line, "privileged") || !strings.Contains(line, "--cap-drop ALL") {
					t.Errorf("docker run %q", engine)
				}
				if _, err := os.Stat(filepath.Join(s.dir, "pwned")); err == nil {
					t.Error("a word was run as a command")
				}
			})
		}
	}
}

func TestLaunchPassword(t *testing.T) {
	const password = `s3cret "pass' $(touch pwned) word`
	for shell, command := range shells(t) {
		for name, given := range map[string]struct {
			env  map[string]string
			args []string
		}{
			"MESH_PASSWORD":  {env: map[string]string{"MESH_PASSWORD": password, "WEAVE_PASSWORD": "other"}},
			"WEAVE_PASSWORD": {env: map[string]string{"WEAVE_PASSWORD": password}},
			"option":         {args: []string{"--password", password}},
		} {
			t.Run(shell+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := newStage(t, launchable, "docker")
				_, daemon, got := launch(t, s, command, "mesh", given.env, given.args...)
				file := filepath.Join(s.state(), "password")
				if !slices.Contains(daemon, "--password-file="+file) {
					t.Fatalf("meshd up %q: no password file\n%s", daemon, got.stderr)
				}
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if data, _ := os.ReadFile(file); string(data) != password+"\n" || info.Mode().Perm() != 0o600 {
					t.Errorf("%s = %q of mode %v", file, data, info.Mode())
				}
				for _, c := range got.calls {
					if strings.Contains(strings.Join(c.Argv, " "), "s3cret") || c.Env["MESHD_PASSWORD"] != "" {
						t.Errorf("the password is in %q, %q", c.Argv, c.Env)
					}
				}
			})
		}
		t.Run(shell+"/two lines", func(t *testing.T) {
			got := newStage(t, launchable, "docker").run(t, command, "mesh", map[string]string{"MESH_PASSWORD": "a\nb"}, "launch")
			if got.code != 1 || !strings.Contains(got.stderr, "more than one line") || len(got.calls) > 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestLaunchAgain(t *testing.T) {
	for shell, command := range shells(t) {
		for _, tt := range []struct {
			name  string
			state containerState
			calls int // of docker: rm, run, exec
			want  string
		}{
			{"runs", state(true, true), 0, "meshd is already running; you can stop it with 'mesh stop'."},
			{"another's runs", state(true, false), 0, "meshd is already running"},
			{"was stopped", state(false, true), 3, ""},
			{"another's was stopped", state(false, false), 0, "there is a container meshd that mesh did not make"},
		} {
			t.Run(shell+"/"+tt.name, func(t *testing.T) {
				w := launchable
				w.Containers = map[string]containerState{"meshd": tt.state}
				got := newStage(t, w, "docker").run(t, command, "mesh", nil, "launch")
				if !strings.Contains(got.stderr, tt.want) || len(got.calls) != tt.calls || (got.code == 0) != (tt.want == "") {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

// Where the host does not share /run, the mounts below it are left out, in the words of
// the client that there is.
func TestLaunchWithoutSharedRun(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mount namespaces are root's")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	for shell, command := range shells(t) {
		for version, want := range map[string]string{
			"20.10.24+dfsg1": "bind-nonrecursive=true", "24.0.9": "bind-nonrecursive=true", "25.0.0": "bind-recursive=disabled",
			"28.2.2": "bind-recursive=disabled", "": "bind-nonrecursive=true",
		} {
			t.Run(shell+"/"+version, func(t *testing.T) {
				w := launchable
				w.Answers = append([]answer{{Call: []string{"docker", "version", "--format"}, Stdout: version}}, w.Answers...)
				private := append([]string{unshare, "--mount", "--propagation", "private"}, command...)
				engine, _, got := launch(t, newStage(t, w, "docker"), private, "mesh", nil)
				if want := "type=bind,src=/run,dst=/run," + want; !slices.Contains(engine, want) {
					t.Errorf("docker run %q, want %q; %+v", engine, want, got)
				}
			})
		}
	}
}

// A daemon that ends at once leaves no container, and its last words are shown.
func TestLaunchFails(t *testing.T) {
	for shell, command := range shells(t) {
		t.Run(shell, func(t *testing.T) {
			w := launchable
			w.Answers = append([]answer{
				{Call: inContainer("status"), Code: 1},
				{Call: []string{"docker", "logs"}, Stdout: "meshd: TCP port 6783 is taken\n"},
			}, w.Answers...)
			got := newStage(t, w, "docker").run(t, command, "mesh", nil, "launch")
			last := got.calls[len(got.calls)-1].Argv
			if got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, "TCP port 6783 is taken") || !slices.Equal(last, []string{"docker", "rm", "-f", "--", "meshd"}) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestReset(t *testing.T) {
	for shell, command := range shells(t) {
		t.Run(shell, func(t *testing.T) {
			s := newStage(t, launched(answer{Call: inContainer("status", "--json"), Stdout: "{\n  \"port\": {\n    \"bridge\": \"br 7\",\n"}), "docker")
			for _, name := range []string{"identity", "password", "attachments"} {
				os.MkdirAll(s.state(), 0o700)
				os.WriteFile(filepath.Join(s.state(), name), nil, 0o600)
			}
			got := s.run(t, command, "mesh", nil, "reset")
			if got.code != 0 || len(got.calls) != 4 {
				t.Fatalf("%+v", got)
			}
			down := got.calls[2].Argv
			for i, want := range []string{"docker exec -- meshd /meshd status --json", "docker stop -- meshd", "docker run --rm --entrypoint /meshd --network host", "docker rm -f -- meshd"} {
				if line := strings.Join(got.calls[i].Argv, " "); !strings.HasPrefix(line, want) {
					t.Errorf("call %q, want %q", line, want)
				}
			}
			if tail := down[len(down)-7:]; !slices.Equal(tail, []string{"sha256:1234", "--socket", "/run/meshd.gone", "down", "--force", "--bridge-name", "br 7"}) {
				t.Errorf("%q", tail)
			}
			left, _ := filepath.Glob(s.state() + "/*")
			if !slices.Equal(left, []string{filepath.Join(s.state(), "identity")}) {
				t.Errorf("left %q, want the identity only", left)
			}
		})
	}
}

// Without Docker the binary is started, in the background.
func TestLaunchProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mesh starts a process as root only")
	}
	for shell, command := range shells(t) {
		t.Run(shell, func(t *testing.T) {
			s := newStage(t, world{Answers: []answer{{Call: []string{"meshd", "up"}, Stay: true}}}, "meshd")
			start := time.Now()
			got := s.run(t, command, "mesh", map[string]string{"MESH_PASSWORD": "s3cret word"}, "launch", "--nickname", "a b", "w1")
			pid := strings.TrimSpace(got.stdout)
			if got.code != 0 || strings.Trim(pid, "0123456789") != "" || pid == "" {
				t.Fatalf("after %v: %+v", time.Since(start), got)
			}
			defer exec.Command("kill", pid).Run()
			up := slices.IndexFunc(got.calls, func(c call) bool { return c.Argv[1] == "up" })
			if up < 0 {
				t.Fatalf("%q", got.calls)
			}
			if want := []string{"meshd", "up", "--state-dir=" + s.state(), "--nickname=a b", "w1"}; !slices.Equal(got.calls[up].Argv, want) {
				t.Errorf("%q, want %q", got.calls[up].Argv, want)
			}
			if got.calls[up].Env["MESHD_PASSWORD"] != "s3cret word" {
				t.Errorf("%q: no password", got.calls[up].Env)
			}
			again := s.run(t, command, "mesh", nil, "launch")
			if again.code != 1 || !strings.Contains(again.stderr, "already running") {
				t.Errorf("launched twice: %+v", again)
			}
		})
		t.Run(shell+"/ends", func(t *testing.T) {
			s := newStage(t, world{Answers: []answer{
				{Call: []string{"meshd", "status"}, Code: 1}, {Call: []string{"meshd", "up"}, Stderr: "meshd: no TUN\n", Code: 1}}}, "meshd")
			got := s.run(t, command, "mesh", nil, "launch")
			if got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, "meshd: no TUN") {
				t.Errorf("%+v", got)
			}
		})
	}
}
