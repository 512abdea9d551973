package udp

import (
	"errors"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAddrRoundTrip(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:1")
	tests := []struct {
		local    netip.AddrPort
		addr     string
		want     string // "": the same
		size     uint32
		wantErro error
	}{
		{v4, "192.0.2.1:6783", "", unix.SizeofSockaddrInet4, nil},
		{v4, "[::ffff:192.0.2.1]:513", "192.0.2.1:513", unix.SizeofSockaddrInet4, nil},
		{v6, "[2001:db8::1]:6783", "", unix.SizeofSockaddrInet6, nil},
		{v6, "[fe80::1%lo]:6783", "", unix.SizeofSockaddrInet6, nil},
		{v6, "[fe80::1%1]:6783", "[fe80::1%lo]:6783", unix.SizeofSockaddrInet6, nil},
		{v6, "[fe80::1%999999]:6783", "", unix.SizeofSockaddrInet6, nil},
		{v6, "[fe80::1%nosuchlink]:6783", "", 0, unix.ENODEV},
		{v6, "[fe80::1%0]:6783", "", 0, unix.ENODEV},
		{v6, "192.0.2.1:6783", "", 0, unix.EAFNOSUPPORT},
		{v4, "[2001:db8::1]:6783", "", 0, unix.EAFNOSUPPORT},
	}
	var z zones
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			sa := unix.RawSockaddrInet6{Flowinfo: 77, Scope_id: 88} // of an earlier message
			size, err := z.putAddr(&sa, tt.local, netip.MustParseAddrPort(tt.addr))
			if size != tt.size || !errors.Is(err, tt.wantErro) {
				t.Fatalf("putAddr = %d, %v; want %d, %v", size, err, tt.size, tt.wantErro)
			}
			if err != nil {
				return
			}
			want := tt.want
			if want == "" {
				want = tt.addr
			}
			if got := z.addrOf(&sa); got.String() != want {
				t.Errorf("addrOf = %v, want %s", got, want)
			}
		})
	}
	if got := z.addrOf(&unix.RawSockaddrInet6{Family: unix.AF_UNIX}); got.IsValid() {
		t.Errorf("addrOf another family = %v", got)
	}
}

func TestZonesForget(t *testing.T) {
	// No interface has this name now.
	z := zones{byName: map[string]uint32{"old": 1}, byIndex: map[uint32]string{1: "old"}}
	if i, ok := z.index("old"); i != 1 || !ok {
		t.Errorf("index = %d, %v", i, ok)
	}
	if name := z.name(1); name != "old" {
		t.Errorf("name = %q", name)
	}
	z.forget()
	if i, ok := z.index("old"); ok {
		t.Errorf("index after forget = %d", i)
	}
	if name := z.name(1); name != "lo" {
		t.Errorf("name after forget = %q", name)
	}
}

func TestZonesAreBounded(t *testing.T) {
	var z zones
	for i := range uint32(3 * maxZones) {
		if want, got := strconv.Itoa(int(1e6+i)), z.name(1e6+i); got != want {
			t.Fatalf("name = %q, want %q", got, want)
		}
		if len(z.byIndex) > maxZones {
			t.Fatalf("%d names are remembered", len(z.byIndex))
		}
	}
}
