package containers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"meshd/internal/engine"
	"meshd/internal/engine/enginetest"
	"meshd/tap/attach"
)

func TestAttachAndDetach(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24")
		v := h.viewOf(web)
		if !v.Attached || v.Device != "ethwe" || v.MTU != 1410 || v.Problem != "" || v.Name != "web" {
			h.Errorf("view: %+v", v)
		}
		h.mustAttach(web, "10.32.0.1/24") // again
		must(h.T, h.attach("docker:"+web.ID[:12], "10.33.0.1/16 fd00::1/64 10.32.0.1/24"))
		if err := h.attach(web.Name, "10.34.0.1/24"); err != nil {
			h.Error(err)
		}
		if again := h.viewOf(web); again.MAC != v.MAC || len(again.Addresses) < 3 {
			h.Errorf("view: %+v, MAC was %s", again, v.MAC)
		}

		_, err := h.Detach(h.Context(), "web", prefixes("10.32.0.1/24 10.99.0.1/24"))
		wantError(h.T, err, "it does not have 10.99.0.1/24, but 10.32.0.1/24, 10.33.0.1/16")
		h.wantInside(web, "10.32.0.1/24 10.33.0.1/16 fd00::1/64 10.34.0.1/24")
		left, err := h.Detach(h.Context(), "web", prefixes("10.32.0.1/24 10.34.0.1/24"))
		wantError(h.T, err, "")
		if !slices.Equal(left, prefixes("10.33.0.1/16 fd00::1/64")) {
			h.Errorf("left: %v", left)
		}
		h.wantInside(web, "10.33.0.1/16 fd00::1/64")

		// One that somebody removed by hand is detached all the same.
		h.within(web, func(nl *netlink.Handle) {
			link, err := nl.LinkByName("ethwe")
			must(h.T, err)
			a, _ := netlink.ParseAddr("fd00::1/64")
			must(h.T, nl.AddrDel(link, a))
		})
		_, err = h.Detach(h.Context(), "web", prefixes("fd00::1/64"))
		wantError(h.T, err, "")
		h.wantInside(web, "10.33.0.1/16")

		_, err = h.Detach(h.Context(), "web", nil)
		wantError(h.T, err, "")
		h.wantInside(web, "")
		h.wantNothing()
		_, err = h.Detach(h.Context(), "web", nil)
		wantError(h.T, err, "container web is not on the overlay")
		h.mustAttach(web, "10.32.0.1/24") // the address is free again
	})
}

// What Weave Net has attached is taken over: the container's own address is nobody
// else's, and its MAC stays. After a restart it is as with any other.
func TestAttachTakesOverWeaves(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		mac := h.plug(web, "vethwepl4711", "ethwe", "10.32.0.1/24")
		wantError(h.T, h.attach("web", "10.32.0.1/24 10.32.0.99/24"), "10.32.0.99 is in use")
		if _, err := netlink.LinkByName("vethwepl4711"); err != nil {
			h.Errorf("Weave's interface after an attach that failed: %v", err)
		}
		h.wantInside(web, "10.32.0.1/24")
		h.mustAttach(web, "10.32.0.1/24")
		if strings.Contains(h.log.String(), "more addresses") {
			h.Error("the log speaks of more addresses than were named")
		}
		db := h.run("db")
		h.plug(db, "vethwepl4712", "ethwe", "10.32.0.4/24")
		must(h.T, h.attach("db", "10.32.0.5/24"))
		h.wantInside(db, "10.32.0.4/24 10.32.0.5/24")
		if !strings.Contains(h.log.String(), "more addresses, which do not come back after a restart\" container=\"container db\" addresses=[10.32.0.4/24]") {
			h.Error("the log does not speak of Weave's address that was not named")
		}
		if v := h.viewOf(web); v.MAC != mac.String() || !v.Attached {
			h.Errorf("view: %+v, want the MAC %s", v, mac)
		}
		web.Restart()
		h.until("it is attached again", func() bool { return h.viewOf(web).Attached && h.viewOf(web).MAC != mac.String() })
		h.wantInside(web, "10.32.0.1/24")
	})
}

func TestAttachRefuses(t *testing.T) {
	inNetwork(t, func(h *node) {
		h.run("web")
		h.engine.Create("asleep", enginetest.Options{})
		h.engine.Run("hosted", enginetest.Options{NetworkMode: "host"})
		h.link("eth0", "192.168.7.1/24")
		many := ""
		for i := range maxAddresses + 1 {
			many += fmt.Sprintf(" 10.50.0.%d/24", i+1)
		}
		for _, tt := range []struct{ what, addrs, want string }{
			{"web", "", "which address"},
			{"web", "10.32.0.0/24", "did you mean 10.32.0.1/24?"},
			{"web", "10.32.0.1/24 10.32.0.2/16", "not of one subnet"},
			{"web", "192.168.7.9/24", "overlaps with the network 192.168.7.0/24 of this host, on its device eth0: choose a subnet"},
			{"web", many, "65 addresses, of at most 64"},
			{"asleep", "10.32.0.1/24", "asleep"},
			{"hosted", "10.32.0.1/24", "host"},
			{"nobody", "10.32.0.1/24", "no container is called"},
			{"--rm", "10.32.0.1/24", "--rm"},
			{strings.Repeat("x", 300), "10.32.0.1/24", "x"},
		} {
			if err := h.attach(tt.what, tt.addrs); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				h.Errorf("attach %s to %s: %v, want %q", tt.what, tt.addrs, err, tt.want)
			}
			if _, err := h.Detach(h.Context(), tt.what, nil); err == nil {
				h.Errorf("detach %s: no error", tt.what)
			}
		}
		h.wantNothing()
	})
}

// TestOneRuleForSubnets: what a container may have, the host may be exposed to.
func TestOneRuleForSubnets(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.link("eth0", "192.168.7.1/24")
		eth0, err := netlink.LinkByName("eth0")
		must(h.T, err)
		for _, r := range []string{"10.0.0.0/8", "10.77.5.0/24"} {
			to, err := netlink.ParseIPNet(r)
			must(h.T, err)
			must(h.T, netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: to, Gw: net.ParseIP("192.168.7.2")}))
		}
		for _, tt := range []struct{ container, host, want string }{
			{"192.168.7.9/24", "192.168.7.10/24", "overlaps with the network 192.168.7.0/24 of this host"},
			{"10.77.0.9/16", "10.77.0.10/16", "overlaps with the route of this host to 10.77.5.0/24, by its device eth0"},
			{"10.99.0.9/32", "10.99.0.10/32", "nobody else in its subnet"},
			{"fd00:99::/64", "fd00:99::/64", "did you mean fd00:99::1/64?"},
			{"10.9.1.9/24", "10.9.1.10/24", ""}, // in a wider route by a gateway
		} {
			wantError(h.T, h.attach("web", tt.container), tt.want)
			_, err := h.Expose(h.Context(), prefixes(tt.host), nil, true)
			wantError(h.T, err, tt.want)
		}
		h.wantInside(web, "10.9.1.9/24")
	})
}

func TestDuplicates(t *testing.T) {
	inNetwork(t, func(h *node) {
		web, db := h.run("web"), h.run("db")
		h.mustAttach(web, "10.32.0.1/24")
		wantError(h.T, h.attach("db", "10.32.0.2/24 10.32.0.1/24"), "attach container db: 10.32.0.1 belongs to container web of this host already")
		wantError(h.T, h.attach("db", "10.32.0.99/24"), "10.32.0.99 is in use by MAC "+h.strange.String()+" behind peer weave02 (02:00:00:00:00:02)")
		_, err := h.Expose(h.Context(), prefixes("10.32.0.50/24"), nil, true)
		must(h.T, err)
		wantError(h.T, h.attach("db", "10.32.0.50/24"), "10.32.0.50 belongs to this host itself already")
		h.wantInside(db, "")
		if v := h.viewOf(db); v.ID != "" {
			h.Errorf("db is known: %+v", v)
		}
		// What web has does not suffer from what it cannot have.
		wantError(h.T, h.attach("web", "10.32.0.7/24 10.32.0.99/24"), "in use")
		h.wantInside(web, "10.32.0.1/24")
		if v := h.viewOf(web); !v.Attached || !slices.Equal(v.Addresses, prefixes("10.32.0.1/24")) {
			h.Errorf("web: %+v", v)
		}
		h.mustAttach(db, "10.32.0.7/24") // given back
	})
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		attachments := filepath.Join(h.dir, "attachments")
		must(h.T, os.MkdirAll(h.dir, 0o700))

		// No directory where the records belong.
		must(h.T, os.WriteFile(attachments, nil, 0o600))
		err := h.attach("web", "10.32.0.1/24")
		wantError(h.T, err, "not a directory: nothing was changed; make room there or set state_dir")
		if err != nil && strings.Contains(err.Error(), "\n") {
			h.Errorf("error of several lines: %v", err)
		}
		must(h.T, os.Remove(attachments))
		h.wantNothing()

		// A full disk.
		must(h.T, os.Mkdir(attachments, 0o700))
		must(h.T, syscall.Mount("none", attachments, "tmpfs", 0, "size=8k"))
		full, err := os.Create(filepath.Join(attachments, "full"))
		must(h.T, err)
		for err == nil {
			_, err = full.Write(make([]byte, 4096))
		}
		full.Close()
		wantError(h.T, h.attach("web", "10.32.0.1/24"), "no space left on device: nothing was changed")
		h.wantNothing()
		must(h.T, os.Remove(full.Name()))
		must(h.T, h.attach("web", "10.32.0.1/24"))
		must(h.T, os.WriteFile(full.Name(), make([]byte, 4096), 0o600))
		wantError(h.T, h.attach("web", "10.32.0.2/24"), "no space left")
		h.wantInside(web, "10.32.0.1/24")
		_, err = h.Detach(h.Context(), "web", nil)
		must(h.T, err)
		must(h.T, syscall.Unmount(attachments, 0))
		h.wantNothing()

		// A device in the container that is somebody else's.
		h.within(web, func(nl *netlink.Handle) {
			must(h.T, nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "ethwe"}}))
		})
		err = h.attach("web", "10.32.0.1/24")
		if !errors.Is(err, attach.ErrForeign) {
			h.Errorf("attach beside a foreign device: %v", err)
		}
		h.wantNothing()
	})
}

// during begins an attach, calls f as soon as the addresses are asked for, and returns
// the error of the attach.
func (h *node) during(ctx context.Context, what, addrs string, f func()) error {
	h.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := h.Attach(ctx, what, prefixes(addrs), AttachOptions{})
		done <- err
	}()
	h.until("the record is there", func() bool { return len(names(h.T, filepath.Join(h.dir, "attachments"))) > 0 })
	f()
	return <-done
}

func TestAttachIsInterrupted(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		ctx, cancel := context.WithCancel(h.Context())
		if err := h.during(ctx, "web", "10.32.0.1/24", cancel); !errors.Is(err, context.Canceled) {
			h.Errorf("client that goes away: %v", err)
		}
		h.wantNothing()

		// The engine was asked before, and what runs is attached.
		wantError(h.T, h.during(h.Context(), "web", "10.32.0.1/24", h.engine.Down), "")
		h.wantInside(web, "10.32.0.1/24")
		_, err := h.Detach(h.Context(), "web", nil)
		must(h.T, err)
		h.wantInside(web, "")
		h.wantNothing()
		if err := h.attach("web", "10.32.0.1/24"); !errors.Is(err, engine.ErrNoEngine) {
			h.Errorf("attach without an engine: %v", err)
		}
		h.engine.Up()
		h.until("the engine is watched", func() bool { return h.engine.Listeners() > 0 })

		if err := h.during(h.Context(), "web", "10.32.0.1/24", web.Stop); !errors.Is(err, attach.ErrEnded) {
			h.Errorf("container that ends: %v", err)
		}
		h.wantNothing()
	})
}

func TestDetachWithoutEngine(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24 10.32.0.2/24")
		h.engine.Down()
		_, err := h.Detach(h.Context(), "web", prefixes("10.32.0.2/24"))
		if !errors.Is(err, engine.ErrNoEngine) {
			h.Errorf("detach of a part: %v", err)
		}
		h.wantInside(web, "10.32.0.1/24 10.32.0.2/24")
		_, err = h.Detach(h.Context(), "web", nil)
		wantError(h.T, err, "")
		h.wantInside(web, "")
		h.wantNothing()
	})
}

func TestManyAtOnce(t *testing.T) {
	inNetwork(t, func(h *node) {
		const n = 20
		for i := range n {
			h.run(fmt.Sprintf("c%d", i))
		}
		first := h.run("first")
		begin := time.Now()
		h.mustAttach(first, "10.32.0.200/24")
		one := time.Since(begin) // most of it is the probe
		begin = time.Now()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := h.attach(fmt.Sprintf("c%d", i), fmt.Sprintf("10.32.0.%d/24", i+1)); err != nil {
					h.Errorf("attach c%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took > n/2*one {
			h.Errorf("%d attaches at once took %v, one %v: they wait for each other", n, took, one)
		}
		if got := len(h.View().Containers); got != n+1 {
			h.Errorf("%d containers, want %d", got, n+1)
		}
	})
}

func TestOneAddressTwiceAtOnce(t *testing.T) {
	inNetwork(t, func(h *node) {
		names := []string{"a", "b", "c"}
		for _, name := range names {
			h.run(name)
		}
		errs := make([]error, 2*len(names))
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = h.attach(names[i%len(names)], "10.32.0.1/24") })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			}
		}
		if views := h.View().Containers; len(views) != 1 || won == 0 || won > 2 {
			h.Errorf("errors %v, containers %+v, want one that has it", errs, views)
		}
	})
}

// Attach and detach of one container at once end in one of the two, everywhere.
func TestAttachAndDetachAtOnce(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _ = h.attach("web", "10.32.0.1/24") })
			wg.Go(func() { _, _ = h.Detach(h.Context(), "web", nil) })
		}
		wg.Wait()
		if len(h.View().Containers) == 0 {
			h.wantInside(web, "")
			h.wantNothing()
			return
		}
		h.wantInside(web, "10.32.0.1/24")
		wantKept(h.T, h.attachments, h.engine.Socket+":"+web.ID)
	})
}

// Who shares the network of a container that is attached is told so, by its name.
func TestAttachSharedNetwork(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24")
		wantError(h.T, h.attach(fmt.Sprintf("pid:%d", web.PID()), "10.32.0.2/24"), "it shares its network with container web, which is attached already")
		h.wantInside(web, "10.32.0.1/24")
	})
}
