package expose

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// legacy is the older iptables of one family. Its rules are not nftables': only
// its own program writes them.
type legacy struct {
	program string
	tables  string // where the kernel lists the tables that are in use
	ip6     bool
}

var legacies = []legacy{
	{"iptables-legacy", "/proc/thread-self/net/ip_tables_names", false},
	{"ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", true},
}

// inUse reports whether the namespace has a legacy filter table. Only then may
// the program run: it would make one.
func (l legacy) inUse() bool {
	b, err := os.ReadFile(l.tables)
	return err == nil && slices.Contains(strings.Fields(string(b)), "filter")
}

// path finds the program; "" where it is not there, as in an image of meshd alone.
func (l legacy) path() string {
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + l.program); err == nil {
			return p
		}
	}
	return ""
}

// makeLegacy brings our rules in the legacy FORWARD chains to a plan, or away,
// where there is such a chain and the program for it.
func makeLegacy(p plan, up bool) (done []string, err error) {
	for _, l := range legacies {
		path := l.path()
		if path == "" || !l.inUse() {
			continue
		}
		var want []pass
		if up {
			want = p.passes(l.ip6)
		}
		more, err := l.makePasses(path, want)
		done = append(done, more...)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (l legacy) makePasses(path string, want []pass) (done []string, err error) {
	out, err := run(path, "-S", "FORWARD")
	if err != nil {
		return nil, err
	}
	var kept []string
	for line := range strings.Lines(out) {
		spec, ok := strings.CutPrefix(strings.TrimSpace(line), "-A FORWARD ")
		if !ok || !strings.Contains(spec+" ", " --comment "+tag+" ") {
			continue
		}
		if !slices.Contains(kept, spec) && slices.ContainsFunc(want, func(p pass) bool { return strings.Join(p.args(), " ") == spec }) {
			kept = append(kept, spec)
			continue
		}
		if _, err := run(path, append([]string{"-D", "FORWARD"}, strings.Fields(spec)...)...); err != nil {
			return done, err
		}
		done = append(done, l.program+" had a rule of ours that is not needed")
	}
	for _, p := range slices.Backward(want) {
		if slices.Contains(kept, strings.Join(p.args(), " ")) {
			continue
		}
		if _, err := run(path, append([]string{"-I", "FORWARD"}, p.args()...)...); err != nil {
			return done, err
		}
		done = append(done, l.program+" did not let the overlay pass")
	}
	return done, nil
}

// commands are what a user types where we cannot.
func (l legacy) commands(want []pass) string {
	var list []string
	for _, p := range slices.Backward(want) {
		list = append(list, l.program+" -I FORWARD "+strings.Join(p.args(), " "))
	}
	return strings.Join(list, "; ")
}

// legacyTime is how long a call of iptables' may take, with the wait for its lock.
const legacyTime = 10 * time.Second

// run runs a program of iptables' in the calling thread's namespace; it waits 2 s
// for others that hold iptables' lock.
func run(path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), legacyTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"-w", "2"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", path, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}
