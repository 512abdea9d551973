package lab

import (
	"os"
	"strings"
	"testing"
)

func TestMachine(t *testing.T) {
	l := newLab(t)
	n, err := l.Namespace("m")
	if err != nil {
		t.Fatal(err)
	}
	m, err := n.Machine("weave07")
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Run(t.Context(), "sh", "-c", "hostname; ls /run /var/lib; echo x >/run/here; ls /sys/fs/cgroup | head -1")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(out)
	if lines[0] != "weave07" || len(lines) < 4 {
		t.Errorf("a machine has %q", out)
	}
	if _, err := os.Stat("/run/here"); err == nil {
		t.Error("a file in the machine is seen outside")
	}
	if out, err := m.Run(t.Context(), "cat", "/run/here"); err != nil || out != "x\n" {
		t.Errorf("the next program reads %q, %v", out, err)
	}
	if _, err := m.Run(t.Context(), "sh", "-c", "echo no >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("a failure says %v", err)
	}
}
