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
	"meshd/internal/engine/enginetest"
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
		wantKept(h.T, h.attachments, h.engine.Socket+":"+web.ID)

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

// The list of engines changes, so that another one is called docker: it does not know
// the containers of the first, which are not forgotten for that.
func TestOtherEngineOfThatName(t *testing.T) {
	inNetwork(t, func(h *node) {
		web := h.run("web")
		h.mustAttach(web, "10.32.0.1/24")
		mac := h.viewOf(web).MAC
		own := h.engine
		other := enginetest.New(h.T)
		h.stop()
		h.engine = other
		h.start()
		h.until("web says that its engine is not asked", func() bool {
			return strings.Contains(h.viewOf(web).Problem, own.Socket) && strings.Contains(h.viewOf(web).Problem, "containers.sockets")
		})
		wantKept(h.T, h.attachments, own.Socket+":"+web.ID)
		h.wantInside(web, "10.32.0.1/24")

		h.stop()
		h.engine, h.others = own, []string{other.Socket}
		h.start()
		h.until("web is attached", func() bool { return h.viewOf(web).Attached })
		if v := h.viewOf(web); v.Engine != "docker@"+own.Socket || v.MAC != mac {
			h.Errorf("web is %+v, want it with docker@%s and the MAC %s as before", v, own.Socket, mac)
		}
		web.Restart() // by another name its events are known too
		h.untilInside(web, "10.32.0.1/24")
		web.Remove()
		h.until("web is forgotten", func() bool { return len(h.View().Containers) == 0 })
		h.wantNothing()
	})
}

// containerd does not tell when a container is removed.
func TestContainerd(t *testing.T) {
	inNetwork(t, func(h *node) {
		h.stop()
		h.ctr = enginetest.NewContainerd(h.T)
		h.start()
		process := h.run("process") // stands in for those of containerd
		view := func() ContainerView {
			for _, v := range h.View().Containers {
				if v.ID == "web" {
					return v
				}
			}
			return ContainerView{}
		}
		attach := func() {
			h.Helper()
			h.ctr.Run("default", "web", process.PID(), nil)
			must(h.T, h.attach("containerd:web", "10.32.0.1/24"))
			h.wantInside(process, "10.32.0.1/24")
		}
		stop := func() {
			h.Helper()
			h.ctr.Stop("default", "web")
			process.Restart()
			h.until("web is known to be stopped", func() bool { return view().Stopped })
		}

		attach()
		stop()
		h.ctr.Run("default", "web", process.PID(), nil)
		h.until("web is attached again", func() bool { return view().Attached })
		h.wantInside(process, "10.32.0.1/24")

		// It is removed while it does not run.
		stop()
		h.until("containerd is not asked for what is known not to run", func() bool {
			asked := h.ctr.Asked()
			for range 3 {
				h.look(h.Context())
			}
			return h.ctr.Asked() == asked
		})
		h.ctr.Remove("default", "web")
		h.doubt()
		if !view().Stopped {
			h.Errorf("a container that is asked for again is %+v meanwhile", view())
		}
		h.until("web is forgotten", func() bool {
			h.look(h.Context())
			return view().ID == ""
		})
		h.wantNothing()

		// While it runs.
		attach()
		process.Restart()
		h.ctr.Remove("default", "web")
		h.until("web is forgotten", func() bool { return view().ID == "" })
		h.wantNothing()

		// Somebody wants its address before it was noticed.
		attach()
		stop()
		db := h.run("db")
		wantError(h.T, h.attach("db", "10.32.0.1/24"), "belongs to container web of this host")
		h.ctr.Remove("default", "web")
		h.mustAttach(db, "10.32.0.1/24")
		if view().ID != "" {
			h.Errorf("web is still %+v", view())
		}

		// containerd does not answer: what it would say is not guessed.
		_, err := h.Detach(h.Context(), "db", nil)
		must(h.T, err)
		attach()
		h.ctr.Down()
		h.ctr.Remove("default", "web")
		process.Restart()
		h.until("web says so", func() bool { return strings.Contains(view().Problem, "is not known") })
		wantKept(h.T, h.attachments, h.ctr.Root+"/default:web")
		h.ctr.Up()
		h.Look()
		h.until("web is forgotten", func() bool { return view().ID == "" })
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
		must(h.T, os.Truncate(h.attachments.path(h.engine.Socket+":"+torn.ID), 20))
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
