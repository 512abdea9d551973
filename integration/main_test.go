package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"meshd/internal/lab"
)

// labPrefix is what all our labs' names begin with.
const labPrefix = "meshd-test-"

// suite is what all tests of a run share.
var suite struct {
	binary string
	stock  string     // meshd that speaks the stock protocol only
	mu     sync.Mutex // guards labs
	labs   []*lab.Lab
}

// TestMain builds meshd once and makes sure that no namespace outlives the run,
// whichever way it ends: an earlier run that was killed is swept up here.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: integration tests build network namespaces and need root")
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if swept, err := lab.Sweep(labPrefix); err != nil {
		fmt.Println("sweep:", err)
		return 1
	} else if len(swept) > 0 {
		fmt.Println("removed what earlier runs left:", swept)
	}
	dir, err := os.MkdirTemp("", "meshd-integration-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	if suite.binary, err = build(dir, "meshd", os.Getenv("MESHD_BINARY")); err != nil {
		fmt.Println(err)
		return 1
	}
	if suite.stock, err = build(dir, "stock", "", "-ldflags", "-X main.stockOnly=yes"); err != nil {
		fmt.Println(err)
		return 1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		closeLabs()
		os.RemoveAll(dir)
		os.Exit(130)
	}()
	defer closeLabs()
	return m.Run()
}

// build builds meshd, or takes a ready one. Tests that run with the race detector
// build it with the race detector too, and so find its races.
func build(dir, name, ready string, flags ...string) (string, error) {
	if ready != "" {
		return filepath.Abs(ready)
	}
	path := filepath.Join(dir, name)
	// Readable for the test that starts it as another user.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	args := []string{"build", "-o", path}
	env := "CGO_ENABLED=0"
	if raceEnabled {
		args, env = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.Command("go", append(append(args, flags...), "meshd/cmd/meshd")...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build meshd: %w\n%s", err, out)
	}
	return path, nil
}

func closeLabs() {
	suite.mu.Lock()
	defer suite.mu.Unlock()
	for _, l := range suite.labs {
		if err := l.Close(); err != nil {
			fmt.Println("remove a lab:", err)
		}
	}
}

// once skips a test where `make portable` runs the tests once more without offloads:
// it is about sessions, NATs or files, which have nothing to do with them.
func once(t *testing.T) {
	t.Helper()
	if os.Getenv("MESHD_TAP_OFFLOAD") == "off" {
		t.Skip("it has nothing to do with offloads")
	}
}
