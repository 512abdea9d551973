package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// capabilities are what the script gives the container, without CAP_.
func capabilities(t *testing.T) (caps, mounts []string) {
	t.Helper()
	for _, command := range shells(t) {
		engine, _, got := launch(t, newStage(t, launchable, "docker"), command, "mesh", nil)
		for i, word := range engine {
			switch word {
			case "--cap-add":
				caps = append(caps, engine[i+1])
			case "--mount":
				mounts = append(mounts, regexp.MustCompile(`dst=([^,]*)`).FindStringSubmatch(engine[i+1])[1])
			}
		}
		if len(caps) == 0 {
			t.Fatalf("%+v", got)
		}
		break
	}
	slices.Sort(caps)
	slices.Sort(mounts)
	return caps, mounts
}

// The unit has the capabilities that the container has, and systemd understands it.
func TestUnit(t *testing.T) {
	unit, err := os.ReadFile("meshd.service")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := capabilities(t)
	got := strings.Fields(strings.ReplaceAll(regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(string(unit))[1], "CAP_", ""))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the unit has the capabilities %q, the container %q", got, want)
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("needs systemd-analyze")
	}
	// Which wants to see the program.
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "meshd.service")
	if err := os.WriteFile(path, bytes.ReplaceAll(unit, []byte("/usr/bin/meshd"), []byte(program)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "--man=no", "verify", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), "meshd") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// The Compose example is what `mesh launch` does.
func TestCompose(t *testing.T) {
	data, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image       string
			Restart     string
			NetworkMode string `yaml:"network_mode"`
			PID         string
			ReadOnly    bool     `yaml:"read_only"`
			CapAdd      []string `yaml:"cap_add"`
			CapDrop     []string `yaml:"cap_drop"`
			Privileged  bool
			Labels      map[string]string
			Volumes     []yaml.Node
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	s := file.Services["meshd"]
	caps, mounts := capabilities(t)
	slices.Sort(s.CapAdd)
	if !slices.Equal(s.CapAdd, caps) || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Privileged || !s.ReadOnly || s.NetworkMode != "host" || s.PID != "host" {
		t.Errorf("service %+v, want capabilities %q", s, caps)
	}
	if s.Labels["meshd.router"] != "yes" {
		t.Error("mesh would not know the container for its own")
	}
	var targets []string
	for _, v := range s.Volumes {
		var long struct{ Target string }
		if v.Kind == yaml.ScalarNode {
			long.Target = strings.Split(v.Value, ":")[1]
		} else if err := v.Decode(&long); err != nil {
			t.Fatal(err)
		}
		if long.Target != "/var/lib/meshd" { // a -v of the script
			targets = append(targets, long.Target)
		}
	}
	slices.Sort(targets)
	if _, err := os.Stat("/etc/machine-id"); err != nil {
		targets = slices.DeleteFunc(targets, func(s string) bool { return s == "/etc/machine-id" })
	}
	if !slices.Equal(targets, mounts) {
		t.Errorf("mounts %q, want %q", targets, mounts)
	}
	if exec.Command("docker", "compose", "version").Run() != nil {
		t.Log("no docker compose here: the file was read as YAML only")
		return
	}
	if out, err := exec.Command("docker", "compose", "-f", "compose.yaml", "config", "-q").CombinedOutput(); err != nil {
		t.Errorf("docker compose config: %v\n%s", err, out)
	}
}
