package publish

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	host := func(ip string, port uint16, udp bool) HostPort {
		h := HostPort{Port: port, UDP: udp}
		if ip != "" {
			h.IP = netip.MustParseAddr(ip)
		}
		return h
	}
	tests := []struct {
		text, canonical string // "": as text
		want            Spec
	}{
		{"80:192.168.99.10:80", "", Spec{host("", 80, false), "192.168.99.10", 80}},
		{"80/udp:192.168.99.10:8080", "", Spec{host("", 80, true), "192.168.99.10", 8080}},
		{"80/tcp:httpd:80", "80:httpd:80", Spec{host("", 80, false), "httpd", 80}},
		{"127.0.0.1:8080:httpd:80", "", Spec{host("127.0.0.1", 8080, false), "httpd", 80}},
		{"127.0.0.1:53/udp:dns:53", "", Spec{host("127.0.0.1", 53, true), "dns", 53}},
		{"[::1]:8080:httpd:80", "", Spec{host("::1", 8080, false), "httpd", 80}},
		{"[::1]:8080/udp:[fd00::1]:80", "", Spec{host("::1", 8080, true), "fd00::1", 80}},
		{"[FE80::1%eth0]:1:a:2", "[fe80::1%eth0]:1:a:2", Spec{host("fe80::1%eth0", 1, false), "a", 2}},
		{"8080:[fd00::1]:80", "", Spec{host("", 8080, false), "fd00::1", 80}},
		{"8080:[fe80::1%weave]:80", "", Spec{host("", 8080, false), "fe80::1%weave", 80}},
		{"0.0.0.0:80:a:80", "", Spec{host("0.0.0.0", 80, false), "a", 80}},
		{"[::]:80:a:80", "", Spec{host("::", 80, false), "a", 80}},
		{"[::ffff:10.0.0.1]:80:[::ffff:10.0.0.2]:80", "10.0.0.1:80:10.0.0.2:80", Spec{host("10.0.0.1", 80, false), "10.0.0.2", 80}},
		{"65535:my_app-web.1:1", "", Spec{host("", 65535, false), "my_app-web.1", 1}},
		{"080:3f4e5d6c7b8a:0443", "80:3f4e5d6c7b8a:443", Spec{host("", 80, false), "3f4e5d6c7b8a", 443}},
		{"80:4711:80", "", Spec{host("", 80, false), "4711", 80}},
	}
	for _, tt := range tests {
		got, err := ParseSpec(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("ParseSpec(%q) = %+v, %v, want %+v", tt.text, got, err, tt.want)
			continue
		}
		want := tt.canonical
		if want == "" {
			want = tt.text
		}
		if got.String() != want {
			t.Errorf("ParseSpec(%q).String() = %q, want %q", tt.text, got, want)
		}
		left := got.HostPort.String()
		if h, err := ParseHostPort(left); err != nil || h != got.HostPort {
			t.Errorf("ParseHostPort(%q) = %+v, %v, want %+v", left, h, err, got.HostPort)
		}
	}
}

func TestParseSpecFaults(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "target is missing: write [HOSTIP:]PORT"},
		{"80", "target is missing"},
		{"httpd:80", "target is missing"},
		{"80:httpd", "write 80:httpd:PORT"},
		{"80:httpd:", "the target's port is missing"},
		{":httpd:80", "this host's port is missing"},
		{"80::80", "TARGET is empty"},
		{":80:httpd:80", "HOSTIP is empty: leave it out with its colon"},
		{"0:httpd:80", `this host's port is "0": give a number from 1 to 65535`},
		{"65536:httpd:80", "this host's port"},
		{"-1:httpd:80", "this host's port"},
		{"+80:httpd:80", "this host's port"},
		{" 80:httpd:80", "this host's port"},
		{"http:httpd:80", "this host's port"},
		{"8000-8010:httpd:80", "one by one"},
		{"80:httpd:0", "the target's port"},
		{"80:httpd:http", "the target's port"},
		{"80/sctp:httpd:80", `"sctp" is neither tcp nor udp: write PORT, PORT/tcp`},
		{"80/:httpd:80", "neither tcp nor udp"},
		{"80/UDP:httpd:80", "neither tcp nor udp"},
		{"127.0.0.1:80:httpd:80/udp", "write 127.0.0.1:80/udp"},
		{"fd00::1:80:httpd:80", "too many colons"},
		{"80:fd00::1:80", "an IPv6 address in brackets"},
		{"[fd00::1:80:httpd:80", "is not closed"},
		{"[::1]80:httpd:80", "put a colon"},
		{"localhost:80:httpd:80", `HOSTIP "localhost" is not an IP address`},
		{"10.0.0.256:80:httpd:80", "HOSTIP"},
		{"224.0.0.1:80:httpd:80", "HOSTIP 224.0.0.1 is a multicast address"},
		{"[fe80::1%a/b]:80:httpd:80", "HOSTIP has the zone"},
		{"[fe80::1%much-too-long-name]:80:httpd:80", "HOSTIP has the zone"},
		{"80:[fe80::1%a b]:80", "TARGET has the zone"},
		{"80:0.0.0.0:80", "TARGET 0.0.0.0"},
		{"80:[::]:80", "TARGET ::"},
		{"80:[ff02::1]:80", "TARGET ff02::1"},
		{"80:255.255.255.255:80", "TARGET 255.255.255.255"},
		{"80:192.168.99.300:80", "is not an IPv4 address"},
		{"80:192.168.99:80", "is not an IPv4 address"},
		{"80:[httpd]:80", "only such an address stands in brackets"},
		{"80:--privileged:80", "begins with a letter"},
		{"80:a b:80", "a name has letters"},
		{"80:a'b\"c:80", "a name has letters"},
		{"80:\x1b[2J:80", "a name has letters"},
		{"80:/var/run/netns/x:80", "a name has letters"},
		{"80:" + strings.Repeat("a", 300) + ":80", "longer than the 255"},
	}
	for _, tt := range tests {
		got, err := ParseSpec(tt.text)
		if err == nil {
			t.Errorf("ParseSpec(%q) = %+v, want a fault", tt.text, got)
			continue
		}
		if msg := err.Error(); !strings.Contains(msg, tt.want) || len(msg) > 400 || strings.ContainsAny(msg, "\n\x1b") {
			t.Errorf("ParseSpec(%q) = %q, want …%s…", tt.text, msg, tt.want)
		}
	}
	for _, text := range []string{"", "80:a:80", "80/x", "x:80", "[::1", "1:2:3:4:5"} {
		if h, err := ParseHostPort(text); err == nil {
			t.Errorf("ParseHostPort(%q) = %+v, want a fault", text, h)
		}
	}
}

func TestSpecAsText(t *testing.T) {
	want := []Spec{{HostPort{netip.MustParseAddr("::1"), 53, true}, "fd00::1", 5353}}
	text, err := json.Marshal(want)
	if err != nil || string(text) != `["[::1]:53/udp:[fd00::1]:5353"]` {
		t.Fatalf("Marshal = %s, %v", text, err)
	}
	var got []Spec
	if err := json.Unmarshal(text, &got); err != nil || len(got) != 1 || got[0] != want[0] {
		t.Errorf("Unmarshal = %+v, %v, want %+v", got, err, want)
	}
	if err := json.Unmarshal([]byte(`["80"]`), &got); err == nil {
		t.Error("a faulty spec was read")
	}
}

func TestOverlaps(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"80", "80", true},
		{"80", "81", false},
		{"80", "80/udp", false},
		{"80", "127.0.0.1:80", true},
		{"80", "[::]:80", true},
		{"0.0.0.0:80", "127.0.0.1:80", true},
		{"0.0.0.0:80", "[::]:80", false},
		{"0.0.0.0:80", "[::1]:80", false},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"[::]:53/udp", "[::1]:53/udp", true},
	}
	for _, tt := range tests {
		a, errA := ParseHostPort(tt.a)
		b, errB := ParseHostPort(tt.b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if a.Overlaps(b) != tt.want || b.Overlaps(a) != tt.want {
			t.Errorf("%s overlaps %s: %v, %v, want %v", a, b, a.Overlaps(b), b.Overlaps(a), tt.want)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{
		"80:192.168.99.10:80", "80/udp:a:80", "127.0.0.1:8080:httpd:80", "[::1]:8080/tcp:[fd00::1]:80",
		"[fe80::1%eth0]:80:[fe80::2%w]:80", "[::ffff:1.2.3.4]:80:a:1", "80:httpd", "[", "]:::", "80/:a:80/udp",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := ParseSpec(text)
		if err != nil {
			if spec != (Spec{}) || len(err.Error()) > 3000 {
				t.Errorf("ParseSpec(%q) = %+v, %v", text, spec, err)
			}
			return
		}
		again, err := ParseSpec(spec.String())
		if err != nil || again != spec {
			t.Errorf("ParseSpec(%q) = %+v, whose text %q is read as %+v, %v", text, spec, spec, again, err)
		}
		if spec.Port == 0 || spec.TargetPort == 0 || spec.Target == "" {
			t.Errorf("ParseSpec(%q) = %+v: something is missing", text, spec)
		}
	})
}
