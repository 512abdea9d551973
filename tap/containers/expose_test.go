package containers

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"meshd/internal/subnet"
	"meshd/tap/expose"
)

// wantHost checks which addresses the bridge has.
func (h *node) wantHost(addrs string) {
	h.Helper()
	if got, want := sorted(h.have()), sorted(prefixes(addrs)); !slices.Equal(got, want) {
		h.Errorf("the host has %v, want %v", got, want)
	}
}

// have are the addresses of the bridge.
func (h *node) have() []netip.Prefix {
	h.Helper()
	list, err := addressesOf(bridge)
	must(h.T, err)
	return list
}

func (h *node) exposes(prefixTexts, subnets string) ([]netip.Prefix, error) {
	return h.Expose(h.Context(), prefixes(prefixTexts), prefixes(subnets), true)
}

func TestExposeAndHide(t *testing.T) {
	inNetwork(t, func(h *node) {
		_, err := h.exposes("", "")
		wantError(h.T, err, "no container of this host is attached yet")
		h.mustAttach(h.run("web"), "10.32.0.1/24")
		_, err = h.exposes("10.32.0.1/24", "")
		wantError(h.T, err, "10.32.0.1 belongs to container web of this host already")
		_, err = h.exposes("10.32.0.5/24 10.32.0.99/24", "")
		wantError(h.T, err, "10.32.0.99 is in use by MAC "+h.strange.String()+" behind peer weave02")
		h.wantHost("")

		picked, err := h.exposes("", "") // web's subnet
		wantError(h.T, err, "")
		if len(picked) != 1 || picked[0].Masked() != prefixes("10.32.0.0/24")[0] {
			h.Fatalf("picked %v", picked)
		}
		again, err := h.exposes("", "10.32.0.0/24")
		if err != nil || !slices.Equal(again, picked) {
			h.Errorf("again: %v, %v, want %v", again, err, picked)
		}
		_, err = h.exposes("10.40.0.1/16 fd00::5/64", "")
		wantError(h.T, err, "")
		h.wantHost(subnet.List(picked) + " 10.40.0.1/16 fd00::5/64")
		_, err = h.exposes("10.40.0.1/24", "")
		wantError(h.T, err, "10.40.0.1 is exposed as 10.40.0.1/16 already")

		_, err = h.Hide(h.Context(), prefixes("10.40.0.1/16 10.41.0.1/16"))
		wantError(h.T, err, "10.41.0.1/16 is not exposed")
		_, err = h.Hide(h.Context(), prefixes("10.40.0.1/16"))
		wantError(h.T, err, "")
		h.wantHost(subnet.List(picked) + " fd00::5/64")

		// A Keeper after this one, with an address gone meanwhile.
		h.stop()
		h.wantHost(subnet.List(picked) + " fd00::5/64")
		br, err := netlink.LinkByName(bridge)
		must(h.T, err)
		a, _ := netlink.ParseAddr("fd00::5/64")
		must(h.T, netlink.AddrDel(br, a))
		h.start()
		h.until("the address is back", func() bool { return len(h.have()) == 2 })

		hidden, err := h.Hide(h.Context(), nil)
		if err != nil || len(hidden) != 2 {
			h.Errorf("hide all: %v, %v", hidden, err)
		}
		h.wantHost("")
		if left := names(h.T, filepath.Join(h.dir, "attachments")); len(left) != 1 {
			h.Errorf("files %v, want that of web", left)
		}
	})
}

func TestExposeFails(t *testing.T) {
	inNetwork(t, func(h *node) {
		must(h.T, os.MkdirAll(h.dir, 0o700))
		must(h.T, os.WriteFile(filepath.Join(h.dir, "attachments"), nil, 0o600))
		_, err := h.exposes("10.32.0.5/24", "")
		if err == nil || strings.Contains(err.Error(), "\n") {
			h.Errorf("no directory for records: %v", err)
		}
		h.wantHost("")
		must(h.T, os.Remove(filepath.Join(h.dir, "attachments")))
		_, err = h.exposes("10.32.0.5/24 10.32.0.6/16", "") // of which one subnet is the other's
		if err == nil {
			h.Error("overlapping subnets exposed")
		}
		h.wantHost("")
		if left := names(h.T, filepath.Join(h.dir, "attachments")); len(left) > 0 {
			h.Errorf("files %v", left)
		}
		_, err = h.exposes("10.32.0.5/24", "")
		wantError(h.T, err, "")
	})
}

// An exposed address that somebody else took keeps no other one away.
// What somebody else has by now, or does not fit any more, keeps nothing else from coming
// after the host was started anew.
func TestRestoreExposedWithoutTheTakenOne(t *testing.T) {
	inNetwork(t, func(h *node) {
		_, err := h.exposes("10.32.0.5/24 10.40.0.1/16 10.50.0.1/24", "")
		must(h.T, err)
		h.stop()
		must(h.T, expose.RemoveLeft(bridge))
		h.wantHost("")
		taken, _ := netlink.ParseAddr("10.32.0.5/24")
		h.link("vpn", "10.50.0.9/24") // overlaps
		h.within(h.stranger, func(nl *netlink.Handle) {
			out, err := nl.LinkByName("out")
			must(h.T, err)
			must(h.T, nl.AddrAdd(out, taken))
		})
		h.start()
		h.until("the problem is told", func() bool {
			p := strings.Join(h.View().Problems, " ")
			return strings.Contains(p, "10.32.0.5 is in use by MAC "+h.strange.String()) && strings.Contains(p, "10.50.0.0/24")
		})
		h.wantHost("10.40.0.1/16")
		left, err := expose.Left(bridge)
		if must(h.T, err); !strings.Contains(strings.Join(left, " "), "table inet meshd") {
			h.Errorf("there are no rules: %v", left)
		}
	})
}

func TestPublish(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.serve(h.stranger, 80, "stranger")
		_, err := h.Publish(h.Context(), "8080:web:80")
		wantError(h.T, err, "attach it first")
		_, err = h.Publish(h.Context(), "8080:10.32.0.99:80")
		wantError(h.T, err, "`meshd expose net:SUBNET` first, such as net:10.32.0.0/24")
		h.mustAttach(web, "10.32.0.1/24")
		h.serve(web, 80, "web")

		v, err := h.Publish(h.Context(), "8080:web:80")
		must(h.T, err)
		auto := v.From
		if v.Target != "10.32.0.1:80" || auto.Masked() != prefixes("10.32.0.0/24")[0] || len(v.Listen) == 0 {
			h.Errorf("published: %+v", v)
		}
		h.wantWord("127.0.0.1:8080", "web")
		h.wantWord("[::1]:8080", "web")
		_, err = h.Publish(h.Context(), "8080:web:80") // again
		wantError(h.T, err, "")
		_, err = h.Publish(h.Context(), "8080:web:81")
		wantError(h.T, err, "8080 is published as 8080:web:80 already")
		v, err = h.Publish(h.Context(), "127.0.0.1:8081:10.32.0.99:80")
		if err != nil || v.From != auto {
			h.Errorf("published: %+v, %v", v, err)
		}
		h.wantWord("127.0.0.1:8081", "stranger")
		taken, err := net.Listen("tcp", "127.0.0.1:8082")
		must(h.T, err)
		defer taken.Close()
		_, err = h.Publish(h.Context(), "127.0.0.1:8082:web:80")
		wantError(h.T, err, "taken by nginx-tcp (pid 8082)")
		_, err = h.Publish(h.Context(), "192.0.2.77:8084:web:80")
		wantError(h.T, err, "publish 192.0.2.77:8084:web:80: 192.0.2.77 is not an address of this host")
		own, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ownPort))
		must(h.T, err)
		defer own.Close()
		_, err = h.Publish(h.Context(), fmt.Sprintf("%d:web:80", ownPort))
		wantError(h.T, err, "port 0.0.0.0:8083 is taken by meshd itself")
		_, err = h.Publish(h.Context(), "127.0.0.1:8080:web:80")
		wantError(h.T, err, "port 127.0.0.1:8080 is taken, as 8080:web:80 is published: `meshd unpublish 8080` first")

		_, err = h.Hide(h.Context(), []netip.Prefix{auto})
		wantError(h.T, err, fmt.Sprintf("%s is where the published port", auto))
		hidden, err := h.Hide(h.Context(), nil) // an address of a port is none of the user's
		if err != nil || len(hidden) > 0 {
			h.Errorf("hide all: %v, %v", hidden, err)
		}

		// It survives a restart of the container, and of the Keeper without its address.
		web.Restart()
		h.untilInside(web, "10.32.0.1/24")
		h.serve(web, 80, "web again")
		h.wantWord("127.0.0.1:8080", "web again")
		h.stop()
		if conn, err := net.Dial("tcp", "127.0.0.1:8080"); err == nil {
			conn.Close()
			h.Error("a port is open after the end")
		}
		h.start()
		h.until("the ports are open", func() bool {
			v := h.View().Published
			return len(v) == 2 && len(v[0].Listen) > 0 && len(v[1].Listen) > 0
		})
		h.wantWord("127.0.0.1:8080", "web again")

		wantError(h.T, h.Unpublish(h.Context(), "8080:web:81"), "is not published")
		wantError(h.T, h.Unpublish(h.Context(), "8080"), "")
		h.wantHost(auto.String()) // 8081 needs it
		wantError(h.T, h.Unpublish(h.Context(), "127.0.0.1:8081:10.32.0.99:80"), "")
		h.wantHost("")
		wantError(h.T, h.Unpublish(h.Context(), "8080"), "is not published")
		if left := names(h.T, filepath.Join(h.dir, "attachments")); len(left) != 1 {
			h.Errorf("files %v, want that of web", left)
		}
	})
}

// The number of a port does where only one has it.
func TestUnpublishByNumber(t *testing.T) {
	inNetwork(t, func(h *node) {
		h.mustAttach(h.run("web"), "10.32.0.1/24")
		for _, spec := range []string{"127.0.0.1:8080:web:80", "[::1]:8080:web:80", "127.0.0.1:8080/udp:web:80"} {
			_, err := h.Publish(h.Context(), spec)
			must(h.T, err)
		}
		wantError(h.T, h.Unpublish(h.Context(), "8080"), "say which of 127.0.0.1:8080, [::1]:8080")
		wantError(h.T, h.Unpublish(h.Context(), "8081"), "is not published")
		wantError(h.T, h.Unpublish(h.Context(), "[::]:8080"), "is not published")
		wantError(h.T, h.Unpublish(h.Context(), "8080/udp"), "")
		wantError(h.T, h.Unpublish(h.Context(), "127.0.0.1:8080"), "")
		wantError(h.T, h.Unpublish(h.Context(), "8080:web:80"), "is not published")
		wantError(h.T, h.Unpublish(h.Context(), "8080"), "")
	})
}

// A port that cannot be published takes no address, and what is exposed by hand stays.
func TestPublishFails(t *testing.T) {
	inNetwork(t, func(h *node) {
		h.mustAttach(h.run("web"), "10.32.0.1/24")
		taken, err := net.Listen("tcp", ":8080")
		must(h.T, err)
		defer taken.Close()
		_, err = h.Publish(h.Context(), "8080:web:80")
		wantError(h.T, err, "8080")
		h.wantHost("")
		_, err = h.exposes("10.32.0.5/24", "")
		must(h.T, err)
		_, err = h.Publish(h.Context(), "8081:web:80")
		must(h.T, err)
		_, err = h.Hide(h.Context(), nil)
		wantError(h.T, err, "`meshd unpublish 8081` first")
		// Another address of the subnet will do.
		_, err = h.exposes("10.32.0.6/24", "")
		must(h.T, err)
		_, err = h.Hide(h.Context(), prefixes("10.32.0.5/24"))
		wantError(h.T, err, "")
		wantError(h.T, h.Unpublish(h.Context(), "8081"), "")
		h.wantHost("10.32.0.6/24")
	})
}

// A port that leads to a container by its name leads to the next one of that name.
func TestPublishedByName(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24")
		_, err := h.exposes("10.32.0.9/24", "") // else the host takes one, which may be that of the next
		must(h.T, err)
		_, err = h.Publish(h.Context(), "8080:web:80")
		must(h.T, err)
		web.Remove()
		h.until("the container is forgotten", func() bool { return len(h.View().Containers) == 0 })
		if p := h.View().Published; len(p) != 1 || p[0].Target != "" || !strings.Contains(p[0].Problem, "web is not attached any more") {
			h.Errorf("without its container the port is %+v", p)
		}
		web = h.run("web")
		h.mustAttach(web, "10.32.0.2/24")
		h.serve(web, 80, "the next one")
		h.wantWord("127.0.0.1:8080", "the next one")
	})
}
