package control

import (
	"bytes"
	"errors"
	"testing"
)

func TestChooseVersion(t *testing.T) {
	tests := []struct {
		lowest, highest byte
		header          string
		want            int
		err             error
	}{
		{1, 2, "weave\x01\x02", 2, nil},
		{1, 2, "weave\x01\x01", 1, nil},
		{1, 1, "weave\x01\x02", 1, nil},
		{2, 2, "weave\x01\x02", 2, nil},
		{1, 2, "weave\x02\x02", 2, nil},
		{1, 2, "weave\x01\xff", 2, nil},
		{1, 2, "weave\x00\x02", 2, nil},
		{2, 2, "weave\x01\x01", 0, ErrVersion},
		{1, 1, "weave\x02\x02", 0, ErrVersion},
		{1, 2, "weave\x03\x09", 0, ErrVersion},
		{1, 2, "weave\x0c\x11", 0, ErrVersion}, // release 0.11
		{1, 2, "weave\x00\x00", 0, ErrVersion},
		{1, 2, "weave\x02\x01", 0, ErrVersion},
		{1, 2, "weavE\x01\x02", 0, ErrNotWeave},
		{1, 2, "SSH-2.0", 0, ErrNotWeave},
		{1, 2, "\x00\x00\x00\x00\x00\x00\x00", 0, ErrNotWeave},
	}
	for _, tt := range tests {
		got, err := chooseVersion([HeaderLen]byte([]byte(tt.header)), tt.lowest, tt.highest)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("chooseVersion(%q, %d, %d) = %d, %v, want %d, %v",
				tt.header, tt.lowest, tt.highest, got, err, tt.want, tt.err)
		}
	}
}

func TestHeaderBytes(t *testing.T) {
	c := capturedConnNamed(t, "01-connect-plain/0")
	if got := appendHeader(nil, 1, 2); !bytes.Equal(got, c.ClientHeader) {
		t.Errorf("appendHeader = %x, want %x", got, c.ClientHeader)
	}
}
