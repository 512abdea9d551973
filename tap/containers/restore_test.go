package containers

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"meshd/internal/atomicfile"
	"meshd/tap/expose"
)

func TestRestart(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24 fd00::1/64")
		begin := time.Now()
		web.Restart()
		h.untilInside(web, "10.32.0.1/24 fd00::1/64")
		if took := time.Since(begin); took > lookEvery {
			h.Errorf("it took %v, longer than without an event", took)
		}

		web.Stop()
		h.until("web is known to be stopped", func() bool {
			v := h.viewOf(web)
			return !v.Attached && strings.Contains(v.Problem, "web") && len(v.Addresses) == 2
		})
		wantError(h.T, h.attach("web", "10.32.0.2/24"), "web")
		wantKept(h.T, h.attachments, "docker:"+web.ID)

		// Nobody else gets its addresses, and the engine is not asked for it again.
		h.run("db")
		wantError(h.T, h.attach("db", "10.32.0.1/24"), "belongs to container web of this host")
		before := h.engine.Requests()
		for range 3 {
			h.look(h.Context())
		}
		if n := h.engine.Requests() - before; n > 0 {
			h.Errorf("%d requests for a container that is known not to run", n)
		}

		web.Start()
		h.untilInside(web, "10.32.0.1/24 fd00::1/64")
		for range 3 { // faster than it can be attached
			web.Restart()
		}
		h.untilInside(web, "10.32.0.1/24 fd00::1/64")
	})
}

// Somebody else takes the address of a container that does not run.
func TestRestartWhereTheAddressIsTaken(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24")
		web.Stop()
		a, _ := netlink.ParseAddr("10.32.0.1/24")
		change := func(f func(nl *netlink.Handle, out netlink.Link) error) {
			h.within(h.stranger, func(nl *netlink.Handle) {
				out, err := nl.LinkByName("out")
				must(h.T, err)
				must(h.T, f(nl, out))
			})
		}
		change(func(nl *netlink.Handle, out netlink.Link) error { return nl.AddrAdd(out, a) })
		web.Start()
		h.until("web says who has it", func() bool { return strings.Contains(h.viewOf(web).Problem, "behind peer weave02") })
		h.wantInside(web, "")
		change(func(nl *netlink.Handle, out netlink.Link) error { return nl.AddrDel(out, a) })
		h.Look()
		h.untilInside(web, "10.32.0.1/24")
	})
}

func TestEngineDownAndUp(t *testing.T) {
	inNetwork(t, func(h *node) {
		web, db := h.run("web"), h.run("db")
		h.mustAttach(web, "10.32.0.1/24")
		h.mustAttach(db, "10.32.0.2/24")
		db.Stop()
		h.until("db is known to be stopped", func() bool { return !h.viewOf(db).Attached })
		h.engine.Down()
		web.Restart()
		db.Start()
		h.engine.Up()
		h.untilInside(web, "10.32.0.1/24")
		h.untilInside(db, "10.32.0.2/24")
	})
}

func TestRemovedContainerIsForgotten(t *testing.T) {
	inNetwork(t, func(h *node) {
		web, db := h.run("web"), h.run("db")
		h.mustAttach(web, "10.32.0.1/24")
		web.Remove()
		h.until("web is forgotten", func() bool { return len(h.View().Containers) == 0 })
		h.wantNothing()
		h.mustAttach(db, "10.32.0.1/24")
		h.engine.Down() // it is not told
		db.Remove()
		h.engine.Up()
		h.until("db is forgotten", func() bool { return len(h.View().Containers) == 0 })
		h.wantNothing()
	})
}

func TestNewKeeper(t *testing.T) {
	inNetwork(t, func(h *node) {
		web, db, torn, gone := h.run("web"), h.run("db"), h.run("torn"), h.run("gone")
		for i, c := range []string{"web", "db", "torn", "gone"} {
			must(h.T, h.attach(c, "10.32.0."+string(rune('1'+i))+"/24"))
		}
		mac := h.viewOf(web).MAC
		h.stop()
		h.wantInside(web, "10.32.0.1/24") // all stays when it ends

		db.Restart()
		gone.Remove()
		must(h.T, os.Truncate(h.attachments.path("docker:"+torn.ID), 20))
		crashed := filepath.Join(h.dir, "attachments", strings.Replace(atomicfile.TempPattern, "*", "1", 1))
		must(h.T, os.WriteFile(crashed, nil, 0o600))
		must(h.T, os.Chtimes(crashed, time.Time{}, time.Now().Add(-time.Hour)))
		h.start()
		h.untilInside(web, "10.32.0.1/24")
		h.untilInside(db, "10.32.0.2/24")
		h.until("gone is forgotten", func() bool { return len(h.View().Containers) == 2 })
		if got := h.viewOf(web).MAC; got != mac {
			h.Errorf("web has another MAC, %s, was %s", got, mac)
		}
		h.until("nobody's interface is removed", func() bool { return len(h.inside(torn)) == 0 })
		damaged := 0
		for _, f := range names(h.T, filepath.Join(h.dir, "attachments")) {
			if strings.HasSuffix(f, ".damaged") {
				damaged++
			}
			if f == filepath.Base(crashed) {
				h.Errorf("file %s", f)
			}
		}
		if damaged != 1 {
			h.Errorf("%d files set aside, want 1", damaged)
		}
		h.mustAttach(torn, "10.32.0.3/24")
	})
}

// A namespace without an engine.
func TestPlainNamespace(t *testing.T) {
	inNetwork(t, func(h *node) {
		c := h.run("c1")
		path := filepath.Join(h.TempDir(), "c1")
		must(h.T, os.Symlink(c.NetNS(), path))
		must(h.T, h.attach(path, "10.32.0.1/24"))
		h.wantInside(c, "10.32.0.1/24")
		h.stop()
		h.start()
		h.until("it is attached", func() bool { v := h.View().Containers; return len(v) == 1 && v[0].Attached })
		must(h.T, os.Remove(path))
		_, err := h.Detach(h.Context(), path, nil)
		wantError(h.T, err, "")
		h.wantInside(c, "")
		h.wantNothing()
	})
}

// Interfaces on another daemon's bridge are none of ours.
func TestOtherBridgesStay(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24")
		other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}}
		must(h.T, netlink.LinkAdd(other))
		must(h.T, netlink.LinkSetUp(other))
		h.stop()
		must(h.T, os.RemoveAll(h.dir))
		veths, err := netlink.LinkList()
		must(h.T, err)
		for _, l := range veths {
			if strings.HasPrefix(l.Attrs().Alias, "meshd attach ") {
				must(h.T, netlink.LinkSetMaster(l, other))
			}
		}
		h.start()
		h.look(h.Context())
		h.wantInside(web, "10.32.0.1/24")
	})
}

// A Keeper that ends before it has looked leaves the rules of what is attached.
func TestEndBeforeTheFirstLook(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24")
		h.stop()
		before, err := expose.Left(bridge)
		must(h.T, err)
		h.start()
		h.stop()
		after, err := expose.Left(bridge)
		must(h.T, err)
		if len(before) == 0 || !slices.Equal(before, after) {
			h.Errorf("left: %q, were %q", after, before)
		}
		h.wantInside(web, "10.32.0.1/24")
		h.start()
		_, err = h.Detach(h.Context(), "web", nil)
		must(h.T, err)
		h.stop()
		if left, err := expose.Left(bridge); err != nil || len(left) > 0 {
			h.Errorf("left with nothing attached: %q, %v", left, err)
		}
	})
}
