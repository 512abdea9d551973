package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCapture sends frames over a cable:
//
//	a eth0 ───── eth0 b
func TestCapture(t *testing.T) {
	l := newLab(t)
	a, b := space(t, l, "a"), space(t, l, "b")
	must(t, Connect(a, "eth0", b, "eth0"))
	ours := func(f []byte) bool { return bytes.Contains(f, []byte("meshd lab")) }
	in, err := b.Capture("eth0", ours)
	must(t, err)
	out, err := a.Capture("eth0", ours)
	must(t, err)

	broadcast := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1)
	plain := append(bytes.Clone(broadcast), 0x88, 0xb5)
	plain = append(plain, "meshd lab, plain"...)
	tagged := append(bytes.Clone(broadcast), 0x81, 0x00, 0x60, 0x07, 0x88, 0xb5)
	tagged = append(tagged, "meshd lab, tagged"...)
	other := append(bytes.Clone(broadcast), 0x88, 0xb5)
	other = append(other, "somebody else's frame"...)
	for _, f := range [][]byte{other, plain, tagged} {
		must(t, a.SendFrame("eth0", f))
	}
	arrived := func() error {
		got := in.Frames()
		if len(got) != 2 || !bytes.Equal(got[0], plain) || !bytes.Equal(got[1], tagged) {
			return fmt.Errorf("captured %q, want %q and %q", got, plain, tagged)
		}
		return nil
	}
	must(t, Poll(within(t, 10*time.Second), time.Millisecond, arrived))
	if got := in.Count(func(f []byte) bool { return bytes.Equal(f, tagged) }); got != 1 {
		t.Errorf("Count = %d, want 1", got)
	}
	if got := out.Frames(); len(got) > 0 {
		t.Errorf("captured %q where they left, want none", got)
	}
	must(t, in.Close())
	if _, err := a.Capture("nothing0", nil); err == nil {
		t.Error("Capture on no interface = nil, want an error")
	}
	if err := a.SendFrame("nothing0", plain); err == nil {
		t.Error("SendFrame on no interface = nil, want an error")
	}
}

// auxMessage is a control message as the kernel sends it with a frame.
func auxMessage(status uint32, tci, tpid uint16) []byte {
	b := make([]byte, unix.CmsgSpace(auxLen))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(auxLen)))
	binary.NativeEndian.PutUint32(b[8:], unix.SOL_PACKET)
	binary.NativeEndian.PutUint32(b[12:], unix.PACKET_AUXDATA)
	data := b[unix.CmsgLen(0):]
	binary.NativeEndian.PutUint32(data, status)
	binary.NativeEndian.PutUint16(data[auxTCI:], tci)
	binary.NativeEndian.PutUint16(data[auxTPID:], tpid)
	return b
}

func TestWithTag(t *testing.T) {
	frame := []byte("ddddddssssssTTpayload")
	const valid, withTPID = unix.TP_STATUS_VLAN_VALID, unix.TP_STATUS_VLAN_TPID_VALID
	for _, tt := range []struct {
		name  string
		frame []byte
		oob   []byte
		want  string
	}{
		{"no auxiliary data", frame, nil, "ddddddssssssTTpayload"},
		{"no tag", frame, auxMessage(0, 7, 0x8100), "ddddddssssssTTpayload"},
		{"802.1Q", frame, auxMessage(valid, 0x2007, 0), "ddddddssssss\x81\x00\x20\x07TTpayload"},
		{"802.1ad", frame, auxMessage(valid|withTPID, 7, 0x88a8), "ddddddssssss\x88\xa8\x00\x07TTpayload"},
		{"runt", frame[:8], auxMessage(valid, 7, 0), "ddddddss"},
		{"cut control message", frame, auxMessage(valid, 7, 0)[:20], "ddddddssssssTTpayload"},
	} {
		if got := withTag(tt.frame, tt.oob); string(got) != tt.want {
			t.Errorf("%s: withTag = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzWithTag(f *testing.F) {
	f.Add([]byte("ddddddssssssTTpayload"), auxMessage(unix.TP_STATUS_VLAN_VALID, 7, 0))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, frame, oob []byte) {
		got := withTag(frame, oob)
		if n := len(got) - len(frame); n != 0 && n != vlanTagLen {
			t.Errorf("withTag grew the frame by %d bytes", n)
		}
	})
}
