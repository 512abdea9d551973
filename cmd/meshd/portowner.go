package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// portTaken explains an error of opening a socket for the setting named key: a
// taken port's names the process that has it, if that can be seen.
func portTaken(err error, key, listen, protocol string) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	_, port, splitErr := net.SplitHostPort(listen)
	if splitErr != nil {
		return err
	}
	by, remedy := "", fmt.Sprintf("end that process or set %s to another port", key)
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		name, pid := portOwner(uint16(n), protocol)
		if name != "" {
			by = fmt.Sprintf(" by %s (pid %d)", name, pid)
		}
		if name == weaveProcess {
			// Docker would start it again, and with another port here both would be on
			// one bridge: a loop.
			remedy = "that is Weave's router; end it with `weave stop` and `docker update --restart=no weave`"
		}
	}
	return fmt.Errorf("%s port %s is taken%s: %s: %w", strings.ToUpper(protocol), port, by, remedy, err)
}

// weaveProcess is what the process of Weave's router is called.
const weaveProcess = "weaver"

// portOwner finds the process that has a port; its name is empty where none is seen.
func portOwner(port uint16, protocol string) (name string, pid int) {
	for _, table := range []string{protocol, protocol + "6"} {
		inode := portInode("/proc/self/net/"+table, port, protocol == "tcp")
		if inode == "" {
			continue
		}
		if name, pid := inodeOwner("socket:[" + inode + "]"); name != "" {
			return name, pid
		}
	}
	return "", 0
}

// portInode reads the inode of a listening socket from a table of /proc/net.
func portInode(table string, port uint16, tcp bool) string {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	want := fmt.Sprintf(":%04X", port)
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		const listening = "0A"
		if len(fields) > 9 && strings.HasSuffix(fields[1], want) && (!tcp || fields[3] == listening) {
			return fields[9]
		}
	}
	return ""
}

// inodeOwner finds the process that has a socket open.
func inodeOwner(socket string) (name string, pid int) {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != socket {
			continue
		}
		owner := strings.Split(fd, "/")[2]
		comm, err := os.ReadFile("/proc/" + owner + "/comm")
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(owner)
		return strings.TrimSpace(string(comm)), pid
	}
	return "", 0
}
