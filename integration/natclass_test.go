package integration

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"meshd/internal/lab"
	"meshd/nat"
	"meshd/nat/nattest"
)

// natReport is what the test needs of `meshd nat --json`.
type natReport struct {
	IPv4       nat.Behaviour   `json:"ipv4"`
	IPv6       nat.Behaviour   `json:"ipv6"`
	Candidates []nat.Candidate `json:"candidates"`
	Mapping    string          `json:"port_mapping"`
	DoubleNAT  nat.Verdict     `json:"double_nat"`
	Lifetime   string          `json:"lifetime"`
}

// natClass is what `meshd nat` has to say of a NAT.
func natClass(kind lab.NATKind) nat.Behaviour {
	mapping := map[nattest.Dependence]nat.Mapping{
		nattest.EndpointIndependent: nat.EndpointIndependent, nattest.AddressDependent: nat.AddressDependent, nattest.AddressAndPortDependent: nat.AddressPortDependent,
	}
	filtering := map[nattest.Dependence]nat.Filtering{
		nattest.EndpointIndependent: nat.OpenFiltering, nattest.AddressDependent: nat.AddressFiltering, nattest.AddressAndPortDependent: nat.AddressPortFiltering,
	}
	switch seen := nattest.Kind(kind).Seen(); kind {
	case lab.NATUDPBlocked:
		return nat.Behaviour{Mapping: nat.UnknownMapping, Filtering: nat.UnknownFiltering, Blocked: true}
	case lab.NATNone:
		return nat.Behaviour{Mapping: nat.NoNAT, Filtering: nat.OpenFiltering}
	default:
		return nat.Behaviour{Mapping: mapping[seen.Mapping], Filtering: filtering[seen.Filtering]}
	}
}

// TestNATClasses: `meshd nat` says of each NAT in the kernel what it is in RFC 4787's
// words, the same as of the one in memory of that name. Two peers can be reached, and one
// behind a NAT of its own, which looks for no ways, helps to measure filtering. Meanwhile
// `meshd nat --lifetime` finds out how long one of them remembers.
func TestNATClasses(t *testing.T) {
	once(t)
	t.Parallel()
	w := newNATWorld(t)
	second, site := w.behind("weave02", lab.SiteConfig{})
	helper, _ := w.behind("helper", lab.SiteConfig{NAT: lab.NATSymmetric})
	helper.Args = append(helper.Args, "--discovery=false")
	w.public.up()
	second.start(w.target)
	helper.start(w.target, site.Inside().String())
	w.joined(w.public, second)
	w.reach(w.public, second, helper)
	idle, _ := w.behind("idle", lab.SiteConfig{NAT: lab.NATShortLived})
	idle.up(w.target)
	idle.survey("a server answers", func(r natReport) error {
		if len(r.IPv4.Mapped) == 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	lifetime := idle.lifetime(time.Minute) // which is mostly waiting
	for _, kind := range lab.NATKinds() {
		t.Run(string(kind), func(t *testing.T) {
			x, _ := w.behind("x-"+string(kind), lab.SiteConfig{NAT: kind})
			x.start(w.target, site.Inside().String())
			x.ready()
			defer x.down()
			w.reach(x, helper)
			time.Sleep(2 * time.Second) // for announcements, so that one look is enough
			want := natClass(kind)
			x.survey("the NAT is known", func(r natReport) error {
				b := r.IPv4
				if b.Mapping != want.Mapping || b.Filtering != want.Filtering || b.Blocked != want.Blocked {
					time.Sleep(5 * time.Second) // helpers send a handful only
					return fmt.Errorf("%s and %s, blocked %v; want %s and %s, blocked %v", b.Mapping, b.Filtering, b.Blocked, want.Mapping, want.Filtering, want.Blocked)
				}
				return nil
			})
		})
	}
	if text := lifetime(); !seconds(text, 5, 12) {
		t.Errorf("mappings of a NAT that forgets after 10 s live for %q", text)
	}
}

// lifetime begins to measure how long mappings live; wait returns what
// `meshd nat --lifetime` says.
func (h *host) lifetime(limit time.Duration) (wait func() string) {
	h.w.Helper()
	type result struct {
		out string
		err error
	}
	begin, ctx, done := time.Now(), h.w.within(limit), make(chan result, 1)
	go func() {
		out, err := h.Command(ctx, "nat", "--json", "--lifetime")
		done <- result{out, err}
	}()
	return func() string {
		h.w.Helper()
		x := <-done
		h.w.must(x.err)
		var r natReport
		h.w.must(json.Unmarshal([]byte(x.out), &r))
		h.w.Logf("mappings live for %s, known after %v at most", r.Lifetime, time.Since(begin).Round(time.Millisecond))
		return r.Lifetime
	}
}

// seconds reports whether a text is a duration within bounds.
func seconds(text string, least, most float64) bool {
	d, err := time.ParseDuration(text)
	return err == nil && d.Seconds() >= least && d.Seconds() <= most
}
