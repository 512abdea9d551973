package main

import (
	"errors"
	"os"
	"testing"
)

func TestProcessCPU(t *testing.T) {
	const fields = " S 1 2 3 0 -1 4194560 1 0 0 0 250 125 7 9 20 0 5 0 100 1000 50"
	for _, tt := range []struct {
		name, in string
		want     float64
		fails    bool
	}{
		{"plain", "12 (meshd)" + fields, 3.75, false},
		{"a name with all that a name may hold", "12 (a) S 9 9) (" + ")" + fields, 3.75, false},
		{"cut off", "12 (meshd) S 1 2 3", 0, true},
		{"no name", "12 S 1 2 3 0 -1 4194560 1 0 0 0 250 125 7 9", 0, true},
		{"empty", "", 0, true},
		{"no numbers", "12 (x) S 1 2 3 0 -1 4194560 1 0 0 0 a b 7 9 20", 0, true},
	} {
		got, err := processCPU([]byte(tt.in))
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("%s: processCPU = %v, %v; want %v, an error: %v", tt.name, got, err, tt.want, tt.fails)
		}
	}
}

func TestMachineCPU(t *testing.T) {
	const stat = "cpu  100 10 200 5000 300 20 30 400 50 60\ncpu0 1 2 3 4\n"
	if got, err := machineCPU([]byte(stat)); got != 3.6 || err != nil {
		t.Errorf("machineCPU = %v, %v, want 3.6: idle, waiting, stolen and guests' time do not count", got, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8\n", "cpu a b c d e f g h\n"} {
		if _, err := machineCPU([]byte(bad)); err == nil {
			t.Errorf("machineCPU(%q) = nil, want an error", bad)
		}
	}
}

func TestResidentSize(t *testing.T) {
	for in, want := range map[string]int64{
		"Name:\tx\nVmHWM:\t 9000 kB\nVmRSS:\t    1234 kB\nThreads:\t3\n": 1234 << 10,
		"Name:\tx\nState:\tZ (zombie)\n":                                 0,
		"VmRSS:\tmuch kB\n":                                              0,
	} {
		if got := residentSize([]byte(in)); got != want {
			t.Errorf("residentSize(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestOwnUsage(t *testing.T) {
	cpu, rss, err := processUsage(os.Getpid())
	if err != nil || rss < 1<<20 || cpu < 0 {
		t.Errorf("processUsage of this test = %v s, %d bytes, %v", cpu, rss, err)
	}
	if _, _, err := processUsage(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("processUsage of no process = %v, want that it does not exist", err)
	}
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("12 (meshd) S 1 2 3 0 -1 4194560 1 0 0 0 250 125 7 9 20"))
	f.Add([]byte("cpu  100 10 200 5000 300 20 30 400 50 60\n"))
	f.Add([]byte("VmRSS:\t    1234 kB\n"))
	f.Add([]byte("Tcp: InErrs InCsumErrors\nTcp: 1 2\n"))
	f.Add([]byte("  0: 00000000:1451 00000000:0000 0A"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if cpu, err := processCPU(b); err == nil && !(cpu >= 0) {
			t.Errorf("processCPU = %v", cpu)
		}
		if cpu, err := machineCPU(b); err == nil && !(cpu >= 0) {
			t.Errorf("machineCPU = %v", cpu)
		}
		residentSize(b)
		checksumErrors(string(b))
		listens(string(b), iperfPort)
	})
}
