package docker

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"meshd/internal/lab"
)

const (
	// labPrefix is what our labs' names begin with.
	labPrefix = "meshd-docker-"
	// cgroupPrefix is what the engines' control groups are called, with the name of the
	// lab and the host behind it.
	cgroupPrefix = "meshdtest-"
)

// suite is what all tests of a run share.
var suite struct {
	dir    string
	binary string     // meshd, static
	mu     sync.Mutex // guards world
	world  *world     // the one to take down when the run is interrupted
}

// TestMain builds meshd once and sees to it that no engine outlives the run.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: Docker engines in network namespaces need root")
		os.Exit(0)
	}
	if err := tools(); err != nil {
		if needed() {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("skipped:", err)
		os.Exit(0)
	}
	os.Exit(run(m))
}

// needed reports whether it is a failure that no engine can be had.
func needed() bool { return os.Getenv("CI") != "" || os.Getenv("MESHD_NEED_DOCKER") == "1" }

// tools looks for the programs that the tests take.
func tools() error {
	for _, name := range []string{"docker", "dockerd", "iptables-save", "nft", "nsenter", "unshare"} {
		if _, err := find(name); err != nil {
			return fmt.Errorf("a Docker engine per host needs docker.io, iptables, nftables and util-linux: %w", err)
		}
	}
	path, err := find("busybox")
	if err != nil {
		return fmt.Errorf("the containers need busybox-static: %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: install busybox-static", path)
		}
	}
	return nil
}

// programDirs is where the hosts' programs are: those of the engine that was asked for
// come first.
func programDirs() []string {
	dirs := strings.Fields("/usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin")
	if own := os.Getenv("MESHD_DOCKER_DIR"); own != "" {
		dirs = append([]string{own}, dirs...)
	}
	return dirs
}

// find looks for a program as the hosts do.
func find(name string) (string, error) {
	for _, dir := range programDirs() {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s in %s", name, strings.Join(programDirs(), ", "))
}

func run(m *testing.M) int {
	// What is in the containers ends first: it is in network namespaces of its own.
	if err := sweepControlGroups(""); err != nil {
		fmt.Println("sweep:", err)
		return 1
	}
	if swept, err := lab.Sweep(labPrefix); err != nil {
		fmt.Println("sweep:", err)
		return 1
	} else if len(swept) > 0 {
		fmt.Println("removed what earlier runs left:", swept)
	}
	var err error
	if suite.dir, err = os.MkdirTemp("", "meshd-docker-"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(suite.dir)
	suite.binary = filepath.Join(suite.dir, "meshd")
	cmd := exec.Command("go", "build", "-trimpath", "-o", suite.binary, "meshd/cmd/meshd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Printf("build meshd: %v\n%s", err, out)
		return 1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		suite.mu.Lock()
		w := suite.world
		suite.mu.Unlock()
		if w != nil {
			if err := w.down(); err != nil {
				fmt.Println("take down:", err)
			}
		}
		os.RemoveAll(suite.dir)
		os.Exit(130)
	}()
	return m.Run()
}

// sweepControlGroups ends what runs in the control groups of the lab with this name, or
// of all whose owner is dead, and removes them.
func sweepControlGroups(labName string) error {
	var tops []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, err := filepath.Glob(pattern + cgroupPrefix + cmp.Or(labName, labPrefix) + "*")
		if err != nil {
			return err
		}
		tops = append(tops, found...)
	}
	var errs []error
	for _, top := range tops {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(top), cgroupPrefix+labPrefix), "-")
		if _, err := os.Stat("/proc/" + owner); labName == "" && err == nil {
			continue
		}
		errs = append(errs, removeControlGroup(top))
	}
	return errors.Join(errs...)
}
