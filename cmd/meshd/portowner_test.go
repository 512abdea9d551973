package main

import (
	"net"
	"os"
	"strings"
	"testing"
)

// Who has the port is named, and what to do about it: of Weave's router it is not to end
// the process, which Docker starts again.
func TestPortTaken(t *testing.T) {
	const comm = "/proc/self/comm" // the name of the whole process
	was, err := os.ReadFile(comm)
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(comm, was, 0); err != nil {
			t.Error(err)
		}
	})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().String()
	for name, want := range map[string]string{
		"nginx":  "is taken by nginx (pid ",
		"weaver": "that is Weave's router; end it with `weave stop` and `docker update --restart=no weave`",
	} {
		if err := os.WriteFile(comm, []byte(name), 0); err != nil {
			t.Fatal(err)
		}
		_, err := net.Listen("tcp4", at)
		if err == nil {
			t.Fatalf("%s can be had twice", at)
		}
		got := portTaken(err, "listen", at, "tcp").Error()
		if !strings.Contains(got, want) || !strings.Contains(got, " by "+name+" (pid ") {
			t.Errorf("%s: %s, want %q", name, got, want)
		}
		if other := strings.Contains(got, "set listen to another port"); other != (name == "nginx") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
