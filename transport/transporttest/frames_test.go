package transporttest

import (
	"bytes"
	"fmt"
	"testing"

	"meshd/internal/frame"
)

// The frames are what they say: their offloads fit, their segments add up to
// their payload and have right checksums.
func TestFramesHold(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		headers := frame.HeaderLen + 20
		if v6 {
			headers += 20
		}
		tests := []struct {
			frame             frame.Frame
			headers, segments int
		}{
			{TCP(1, 0, 0, v6), headers + 32, 1},
			{TCP(2, 1001, 0, v6), headers + 32, 1},
			{TCP(3, 60000, 1400, v6), headers + 32, 43},
			{TCP(4, 1400, 1400, v6), headers + 32, 1},
			{UDP(5, 0, 0, v6), headers + 8, 1},
			{UDP(6, 999, 0, v6), headers + 8, 1},
			{UDP(7, 5001, 1000, v6), headers + 8, 6},
			{frame.Frame{Data: SYN(1460, v6)}, headers + 24, 1},
		}
		for i, tt := range tests {
			t.Run(fmt.Sprintf("IPv6 %v/%d", v6, i), func(t *testing.T) {
				if err := frame.CheckOffload(tt.frame); err != nil {
					t.Fatalf("CheckOffload = %v", err)
				}
				var payload []byte
				segments := Segments(tt.frame)
				for _, s := range segments {
					if sum := L4Sum(s); sum != 0xffff {
						t.Errorf("checksum is wrong: the sum is %#x", sum)
					}
					payload = append(payload, s[tt.headers:]...)
				}
				if len(segments) != tt.segments || !bytes.Equal(payload, tt.frame.Data[tt.headers:]) {
					t.Errorf("%d segments with %d bytes, want %d with %d", len(segments), len(payload), tt.segments, len(tt.frame.Data)-tt.headers)
				}
			})
		}
	}
	lie := TCP(1, 3000, 1000, false)
	lie.Data = lie.Data[:2000]
	if got := Segments(lie); got != nil {
		t.Errorf("%d segments of a frame whose lengths lie, want none", len(got))
	}
}
