package dump

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	other := errors.New("other")
	for _, tt := range []struct {
		name string
		errs []error // of the dumps in turn; none after them
		want error
		n    int
	}{
		{"at once", nil, nil, 1},
		{"torn twice", []error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted}, nil, 3},
		{"another error", []error{other}, other, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			_, err := Whole(func() ([]int, error) {
				n++
				if n <= len(tt.errs) {
					return nil, tt.errs[n-1]
				}
				return []int{1}, nil
			})
			if err != tt.want || n != tt.n {
				t.Errorf("Whole = %v after %d dumps, want %v after %d", err, n, tt.want, tt.n)
			}
		})
	}
	n := 0
	if _, err := Whole(func() ([]int, error) { n++; return nil, netlink.ErrDumpInterrupted }); err == nil || n != tries {
		t.Errorf("a list that is torn each time: %v after %d dumps, want the error after %d", err, n, tries)
	}
}
