package containers

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParsePrefix(t *testing.T) {
	for _, tt := range []struct {
		text string
		want string // the prefix, or words of the error
		ok   bool
	}{
		{"10.32.0.1/24", "10.32.0.1/24", true},
		{"ip:10.32.0.1/12", "10.32.0.1/12", true},
		{"fd00:32::1/64", "fd00:32::1/64", true},
		{"", "write it as 10.32.0.1/24", false},
		{"10.32.0.1", "write it with its length, such as 10.32.0.1/24", false},
		{"fd00::1", "write it with its length, such as fd00::1/64", false},
		{"fe80::1%eth0", "is not an address", false},
		{"fe80::1%eth0/64", "is not an address", false},
		{"10.32.0.1/33", "is not an address", false},
		{"10.32.0.1/-1", "is not an address", false},
		{"10.32.0.1/024", "is not an address", false},
		{"10.32.0.01/24", "is not an address", false},
		{"10.32.0.1/24 ", "is not an address", false},
		{"ip:ip:10.32.0.1/24", "is not an address", false},
		{"--help", "is not an address", false},
		{"$(reboot)/24\n\x1b[2J", `"$(reboot)/24\n\x1b[2J"`, false},
		{"10.32.0.0/24", "did you mean 10.32.0.1/24?", false},
	} {
		t.Run(tt.text, func(t *testing.T) {
			p, err := ParsePrefix(tt.text)
			got := p.String()
			if err != nil {
				got = err.Error()
			}
			if (err == nil) != tt.ok || !strings.Contains(got, tt.want) {
				t.Errorf("ParsePrefix(%q) = %v, %v, want %q", tt.text, p, err, tt.want)
			}
		})
	}
}

// A sentence about something long is not long.
func TestParsePrefixOfLongText(t *testing.T) {
	_, err := ParsePrefix(strings.Repeat("\x00", 1<<20))
	if err == nil || len(err.Error()) > 500 {
		t.Errorf("ParsePrefix of 1 MiB = %.1000v, want a short error", err)
	}
}

func FuzzParsePrefix(f *testing.F) {
	for _, s := range []string{"10.32.0.1/24", "ip:fd00::1/64", "10.32.0.1", "fe80::1%x/64", "::ffff:1.2.3.4/96"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrefix(s)
		if err != nil {
			if text := err.Error(); strings.ContainsAny(text, "\n\x00\x1b") || len(text) > 1000 {
				t.Errorf("ParsePrefix(%q): error is no short line: %q", s, text)
			}
			return
		}
		if again, err := ParsePrefix(p.String()); err != nil || again != p {
			t.Errorf("ParsePrefix(%q) = %v, which is read as %v, %v", s, p, again, err)
		}
		if a := p.Addr(); a.Zone() != "" || a.Is4In6() || a.IsMulticast() || a.IsLoopback() || p.Bits() < 1 {
			t.Errorf("ParsePrefix(%q) = %v, which is no address of a container", s, p)
		}
	})
}

func TestCalled(t *testing.T) {
	web := Attachment{Engine: "docker", ID: strings.Repeat("abcdef01", 8), Name: "web"}
	c1 := Attachment{NetNS: "/run/netns/c1", Name: "c1"}
	ctr := Attachment{Engine: "containerd/default@/run/k3s/x", ID: "ctr1"}
	nameless := Attachment{NetNS: "/proc/17/ns/net"}
	for _, tt := range []struct {
		a    Attachment
		what string
		want bool
	}{
		{web, "web", true}, {web, "docker:web", true}, {web, "podman:web", false},
		{web, "abcdef01", true}, {web, "docker:abc", true}, {web, "ab", false}, {web, "", false},
		{web, web.ID, true}, {web, web.ID + "0", false}, {web, "we", false},
		{ctr, "ctr1", true}, {ctr, "containerd:ctr1", true}, {ctr, "containerd/default:ctr1", true}, {ctr, "containerd/k8s.io:ctr1", false},
		{ctr, "containerd/default@/run/k3s/x:ctr1", true}, {ctr, "docker:ctr1", false}, {ctr, ":ctr1", false},
		{c1, "/run/netns/c1", true}, {c1, "netns:c1", true}, {c1, "c1", true}, {c1, "", false},
		{nameless, "/proc/17/ns/net", true}, {nameless, "", false}, {nameless, "netns:", false},
	} {
		if got := tt.a.called(tt.what); got != tt.want {
			t.Errorf("%v called %q = %v, want %v", tt.a, tt.what, got, tt.want)
		}
	}
}

// Names are for people: two engines may have one each.
func TestClaimsGoByKey(t *testing.T) {
	var c claims
	a := Attachment{Engine: "docker", ID: "1", Name: "web"}
	b := Attachment{Engine: "podman", ID: "1", Name: "web"}
	addr := []netip.Addr{netip.MustParseAddr("10.32.0.1")}
	wantError(t, c.take(addr, a.owner()), "")
	wantError(t, c.take(addr, b.owner()), "belongs to container web of this host already")
	a.Name = "renamed"
	wantError(t, c.take(addr, a.owner()), "")
	wantError(t, c.take(addr, host), "belongs to container renamed of this host")
	c.release(addr, b.owner())
	if !c.taken(addr[0]) {
		t.Error("somebody else gave an address back")
	}
	a.Name = "again"
	c.release(addr, a.owner())
	wantError(t, c.take(addr, host), "")
	wantError(t, c.take(addr, b.owner()), "belongs to this host itself already")
}

// prefixes reads some, with blanks between.
func prefixes(s string) (out []netip.Prefix) {
	for _, word := range strings.Fields(s) {
		out = append(out, netip.MustParsePrefix(word))
	}
	return out
}

// wantError checks that an error has these words, or that there is none for "".
func wantError(t *testing.T, err error, words string) {
	t.Helper()
	switch {
	case err == nil && words != "":
		t.Errorf("no error, want one with %q", words)
	case err != nil && (words == "" || !strings.Contains(err.Error(), words)):
		t.Errorf("error %q, want %q", err, words)
	}
}
