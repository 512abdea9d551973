package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// userHZ is the unit of CPU times in /proc, per second; fixed for user space.
const userHZ = 100

// usage is what the machine and an overlay's daemons have used so far.
type usage struct {
	daemons float64 // CPU seconds of all daemons
	machine float64 // CPU seconds of everything, that of the kernel for nobody too
	rss     int64   // bytes, of the largest daemon
}

// usage reads what runs on the hosts. Where the overlay is the kernel's that is
// nothing.
func (b *bed) usage() (usage, error) {
	var u usage
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	if u.machine, err = machineCPU(stat); err != nil {
		return u, err
	}
	for _, h := range b.hosts {
		for _, pid := range h.PIDs() {
			cpu, rss, err := processUsage(pid)
			if errors.Is(err, os.ErrNotExist) {
				continue // a script that has ended
			}
			if err != nil {
				return u, err
			}
			u.daemons += cpu
			u.rss = max(u.rss, rss)
		}
	}
	return u, nil
}

func processUsage(pid int) (cpu float64, rss int64, err error) {
	stat, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	status, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, err
	}
	if cpu, err = processCPU(stat); err != nil {
		return 0, 0, err
	}
	return cpu, residentSize(status), nil
}

// processCPU is the user and system time of a process in seconds, fields 14 and
// 15 of proc_pid_stat(5).
func processCPU(stat []byte) (float64, error) {
	// The second field is the program's name, which may hold anything.
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("no process state: %.40q", stat)
	}
	return ticks(fields[11:13])
}

// machineCPU is the busy time of all CPUs in seconds, proc_stat(5): not idle, not
// waiting for a disk, not taken by the hypervisor.
func machineCPU(stat []byte) (float64, error) {
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("no CPU times: %.40q", line)
	}
	// user nice system, idle iowait, irq softirq
	busy, err1 := ticks(fields[1:4])
	interrupts, err2 := ticks(fields[6:8])
	return busy + interrupts, errors.Join(err1, err2)
}

func ticks(fields []string) (sum float64, err error) {
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += float64(n) / userHZ
	}
	return sum, nil
}

// residentSize is VmRSS of proc_pid_status(5) in bytes; 0 for a zombie, which has
// none.
func residentSize(status []byte) int64 {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}
