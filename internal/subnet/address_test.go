package subnet

import (
	"net/netip"
	"strings"
	"testing"
)

func TestLast(t *testing.T) {
	for give, want := range map[string]string{
		"192.168.99.7/24": "192.168.99.255", "10.1.2.3/15": "10.1.255.255", "10.0.0.1/32": "10.0.0.1",
		"10.0.0.4/31": "10.0.0.5", "0.0.0.0/0": "255.255.255.255", "fd00::1/121": "fd00::7f", "fd00::1/128": "fd00::1",
	} {
		if got := Last(netip.MustParsePrefix(give)); got != netip.MustParseAddr(want) {
			t.Errorf("Last(%s) = %v, want %s", give, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct{ give, want string }{
		{"10.32.0.1/24", ""},
		{"10.32.0.254/24", ""},
		{"10.32.1.0/12", ""}, // in the middle
		{"10.32.1.255/12", ""},
		{"198.51.100.7/24", ""}, // public ones are the user's business
		{"fd00:32::1/64", ""},
		{"fd00:32::ffff:ffff:ffff:ffff/64", ""}, // IPv6 has no broadcast
		{"10.32.0.0/31", ""}, {"10.32.0.1/31", ""}, {"fd00:32::/127", ""}, {"fd00:32::1/127", ""},
		{"10.32.0.1/30", ""}, {"10.32.0.2/30", ""},
		{"10.32.0.0/30", "did you mean 10.32.0.1/30?"},
		{"10.32.0.3/30", "broadcast address of its subnet: choose another, such as 10.32.0.2/30"},
		{"10.32.0.0/24", "10.32.0.0/24 is the address of the subnet itself, not of a host in it: did you mean 10.32.0.1/24?"},
		{"10.32.0.255/24", "such as 10.32.0.254/24"},
		{"fd00:32::/64", "did you mean fd00:32::1/64?"},
		{"fd00:32::/126", "did you mean fd00:32::1/126?"},
		{"10.32.0.1/32", "10.32.0.1/32 has nobody else in its subnet: give its subnet's length, such as 10.32.0.1/24"},
		{"fd00:32::1/128", "such as fd00:32::1/64"},
		{"10.32.0.1/0", "all networks at once: give its subnet's length, such as 10.32.0.1/24"},
		{"fd00:32::1/0", "such as fd00:32::1/64"},
		{"::ffff:10.32.0.1/120", "write 10.32.0.1"},
		{"0.0.0.0/0", "cannot be the address"},
		{"0.1.2.3/24", "cannot be the address"},
		{"127.0.0.2/8", "cannot be the address"},
		{"240.0.0.1/24", "cannot be the address"},
		{"255.255.255.255/32", "cannot be the address"},
		{"::/64", "cannot be the address"},
		{"::1/128", "cannot be the address"},
		{"169.254.1.1/16", "link-local"},
		{"fe80::1/64", "link-local"},
		{"224.0.0.5/24", "a group"},
		{"ff02::1/64", "a group"},
	} {
		wantError(t, "Check("+tt.give+")", Check(netip.MustParsePrefix(tt.give)), tt.want)
	}
	wantError(t, "Check of no address", Check(netip.Prefix{}), "there is no address")
	wantError(t, "Check of no length", Check(netip.PrefixFrom(netip.MustParseAddr("10.32.0.1"), -1)), "there is no address")
	wantError(t, "CheckAddr of no address", CheckAddr(netip.Addr{}), "there is no address")
}

func TestCheckAll(t *testing.T) {
	for _, tt := range []struct{ give, want string }{
		{"", ""},
		{"10.32.0.1/24 10.32.0.2/24 10.33.0.1/16 fd00::1/64 fd00::2/64", ""},
		{"10.32.0.1/24 10.32.0.1/24", "10.32.0.1/24 is there twice: name it once"},
		{"10.32.0.1/24 10.32.0.1/16", "10.32.0.1 is there twice, as 10.32.0.1/24 and 10.32.0.1/16: take one away"},
		{"10.32.0.1/24 10.32.0.2/16", "10.32.0.1/24 and 10.32.0.2/16 overlap, but are not of one subnet: give both the same prefix length"},
		{"fd00::1/64 fd00:0:0:1::1/48", "not of one subnet"},
		{"10.32.0.1/24 10.33.0.0/24", "the subnet itself"},
	} {
		wantError(t, "CheckAll("+tt.give+")", CheckAll(prefixes(tt.give)), tt.want)
	}
}

func prefixes(s string) (out []netip.Prefix) {
	for _, word := range strings.Fields(s) {
		out = append(out, netip.MustParsePrefix(word))
	}
	return out
}

// wantError checks that an error has these words, or that there is none for "".
func wantError(t *testing.T, what string, err error, words string) {
	t.Helper()
	if err == nil && words != "" || err != nil && (words == "" || !strings.Contains(err.Error(), words)) {
		t.Errorf("%s = %v, want %q", what, err, words)
	}
}
