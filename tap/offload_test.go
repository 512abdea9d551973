package tap

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

func TestProbe(t *testing.T) {
	const uso = unix.TUN_F_USO4 | unix.TUN_F_USO6
	for _, tt := range []struct {
		name    string
		refused features // flags that the driver does not know
		want    []string
	}{
		{"all", 0, []string{"csum", "tso4", "tso6", "ecn", "uso4", "uso6"}},
		{"one half of USO", unix.TUN_F_USO6, []string{"csum", "tso4", "tso6", "ecn"}},
		{"before Linux 6.2", uso, []string{"csum", "tso4", "tso6", "ecn"}},
		{"no ECN", uso | unix.TUN_F_TSO_ECN, []string{"csum", "tso4", "tso6"}},
		{"IPv4 only", uso | unix.TUN_F_TSO_ECN | unix.TUN_F_TSO6, []string{"csum", "tso4"}},
		{"checksums only", ^features(unix.TUN_F_CSUM), []string{"csum"}},
		{"nothing", ^features(0), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := probe(func(f features) error {
				if f&tt.refused != 0 {
					return unix.EINVAL
				}
				return nil
			})
			if got := f.names(); !slices.Equal(got, tt.want) || err != nil {
				t.Errorf("probe() = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
	if _, err := probe(func(features) error { return unix.EINVAL }); err != unix.EINVAL {
		t.Errorf("probe() of a driver that refuses all = %v, want %v", err, unix.EINVAL)
	}
}

// TestOffloadOfOlderKernels opens ports on a kernel that refuses what older ones
// do not know.
func TestOffloadOfOlderKernels(t *testing.T) {
	ioctl := func(request uint32, more ...condition) func(*testing.T) {
		return func(t *testing.T) {
			refuseCalls(t, unix.SYS_IOCTL, append([]condition{{arg: 1, value: request}}, more...)...)
		}
	}
	for _, tt := range []struct {
		name     string
		refuse   func(t *testing.T)
		on       bool // there are offloads
		features string
		why      string // in Offload.Why
	}{
		{"this kernel", nothing, true, "csum", ""},
		{"no USO", ioctl(unix.TUNSETOFFLOAD, condition{2, unix.TUN_F_USO4, true}), true, "csum tso4 tso6 ecn", "no uso4, uso6"},
		{"no segmentation", ioctl(unix.TUNSETOFFLOAD, condition{2, unix.TUN_F_TSO4, true}), true, "csum", "no tso4"},
		{"no offload at all", ioctl(unix.TUNSETOFFLOAD), false, "", "set offloads"},
		{"no header of ours", ioctl(unix.TUNSETVNETHDRSZ), false, "", "virtio-net header"},
		{"no way to ask", ioctl(unix.TUNGETFEATURES), false, "", "virtio-net header"},
	} {
		for _, mode := range []string{"", OffloadAuto, OffloadOn, OffloadOff} {
			t.Run(tt.name+", mode "+mode, func(t *testing.T) {
				namespace(t)
				before := links(t)
				tt.refuse(t)
				var log bytes.Buffer
				p, err := Open(Config{CreateBridge: true, Offload: mode, Log: slog.New(slog.NewTextHandler(&log, nil))})
				if mode == OffloadOn && !tt.on {
					if !errors.Is(err, ErrNoOffload) || !strings.Contains(err.Error(), "tap.offload") {
						t.Errorf("Open() = %v, want %v", err, ErrNoOffload)
					}
					if after := links(t); !slices.Equal(before, after) {
						t.Errorf("links after the refusal = %v, want %v", after, before)
					}
					return
				}
				must(t, err)
				defer p.Close()
				o := p.Offload()
				if on := tt.on && mode != OffloadOff; o.On != on {
					t.Errorf("Offload() = %+v, want On %v", o, on)
				}
				if mode == OffloadOff {
					if !strings.Contains(o.Why, "tap.offload") || o.Features != nil {
						t.Errorf("Offload() = %+v, want the reason", o)
					}
					return
				}
				if got := strings.Join(o.Features, " "); !strings.HasPrefix(got, tt.features) || tt.why != "" && got != tt.features {
					t.Errorf("features = %q, want %q", got, tt.features)
				}
				if !strings.Contains(o.Why, tt.why) {
					t.Errorf("Why = %q, want %q in it", o.Why, tt.why)
				}
				if warned := strings.Contains(log.String(), "level=WARN"); warned == tt.on {
					t.Errorf("log = %q", log.String())
				}
			})
		}
	}
}

func TestOffloadJSON(t *testing.T) {
	for want, o := range map[string]Offload{
		`{"on":true,"features":["csum","tso4"]}`:  {On: true, Features: []string{"csum", "tso4"}},
		`{"on":false,"why":"tap.offload is off"}`: {Why: "tap.offload is off"},
	} {
		if got, err := json.Marshal(o); string(got) != want || err != nil {
			t.Errorf("Marshal(%+v) = %s, %v; want %s", o, got, err, want)
		}
	}
}

// TestWithoutUSO: where the kernel takes no super-frames of UDP, it gets none.
func TestWithoutUSO(t *testing.T) {
	namespace(t)
	refuseCalls(t, unix.SYS_IOCTL, condition{1, unix.TUNSETOFFLOAD, false}, condition{2, unix.TUN_F_USO4, true})
	p := open(t, Config{CreateBridge: true, Offload: OffloadOn})
	a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
	tcp, udp := stream{src: a, dst: b}, stream{src: a, dst: b, udp: true}
	for _, tt := range []struct {
		f    frame.Frame
		want int
	}{{tcp.super(pattern(5000), 1300), 1}, {udp.super(pattern(5000), 1300), 4}} {
		segments := cut(t, tt.f)
		for _, batch := range [][]frame.Frame{{tt.f}, plain(segments)} {
			if n, err := p.Write(batch); n != len(batch) || err != nil {
				t.Errorf("Write() = %d, %v; want %d", n, err, len(batch))
			}
			if got := arrivals(t, sink, a, segments); got != tt.want {
				t.Errorf("arrived in %d pieces, want %d", got, tt.want)
			}
		}
	}
}

// TestKernelRefusesJoined: a kernel that does not like what we join gets the
// segments, and after a while is not asked again.
func TestKernelRefusesJoined(t *testing.T) {
	namespace(t)
	var log bytes.Buffer
	p := open(t, Config{CreateBridge: true, Offload: OffloadOn, Log: slog.New(slog.NewTextHandler(&log, nil))})
	a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
	segments := cut(t, stream{src: a, dst: b}.super(pattern(1300*3), 1300))
	if p.Write(plain(segments)); arrivals(t, sink, a, segments) != 1 {
		t.Error("segments were not joined before")
	}
	refuseCalls(t, unix.SYS_WRITEV, condition{2, 5, false}) // header, head and three pieces
	for i := range 2 * maxRefusals {
		if n, err := p.Write(plain(segments)); n != len(segments) || err != nil {
			t.Fatalf("Write() = %d, %v; want %d", n, err, len(segments))
		}
		if got := arrivals(t, sink, a, segments); got != len(segments) {
			t.Errorf("arrived in %d pieces, want %d", got, len(segments))
		}
		if said := p.Offload().Why != ""; said != (i+1 >= maxRefusals) || !p.Offload().On {
			t.Errorf("after %d refusals Offload() = %+v", i+1, p.Offload())
		}
	}
	if got := strings.Count(log.String(), "refuses super-frames"); got != 1 {
		t.Errorf("said %d times:\n%s", got, log.String())
	}
	if s := p.Stats(); s.Drops != nil || s.Written.Frames != uint64((2*maxRefusals+1)*len(segments)) {
		t.Errorf("Stats() = %+v", s)
	}
}

// plain makes frames of segments.
func plain(segments [][]byte) (frames []frame.Frame) {
	for _, s := range segments {
		frames = append(frames, frame.Frame{Data: s})
	}
	return frames
}

// arrivals reads what c sent until all segments were there, and returns in how many
// pieces they came.
func arrivals(t *testing.T, d *device, c *container, segments [][]byte) (pieces int) {
	t.Helper()
	for got := 0; got < len(segments); pieces++ {
		for _, seg := range cut(t, readVnet(t, d, c)) {
			if !bytes.Equal(seg, segments[got]) {
				t.Fatalf("segment %d is %s; want %s", got, describe(frame.Frame{Data: seg}), describe(frame.Frame{Data: segments[got]}))
			}
			got++
		}
	}
	return pieces
}
