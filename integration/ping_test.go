package integration

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// ping runs `meshd ping` on h; the output ends with the statistics, if there are some.
func (h *host) ping(args ...string) (out, errs string, code int) {
	h.w.Helper()
	out, err := h.Command(h.w.within(patience), append([]string{"ping"}, args...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code, errs = exit.ExitCode(), string(exit.Stderr)
	} else {
		h.w.must(err)
	}
	h.w.Logf("ping %s: %d\n%s%s", strings.Join(args, " "), code, out, errs)
	return out, errs, code
}

// pings checks a ping's exit code, and that each of n lines says a text.
func (h *host) pings(n int, text string, code int, args ...string) {
	h.w.Helper()
	out, _, got := h.ping(args...)
	if got != code || strings.Count(out, text) != n {
		h.w.Errorf("ping %s = %d, want %d and %d times %q:\n%s", strings.Join(args, " "), got, code, n, text, out)
	}
}

// TestPing: a ping says by which way each answer came, before and after two hosts find
// a way of their own.
//
//	weave01 ──┐
//	weave02 ──┼── lan
//	weave03 ──┘
//
// At first weave01 and weave03 cannot reach each other.
func TestPing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.needNFT()
	lan := w.lan("lan")
	a, b, c := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24")), w.host("weave03", lan.at("10.0.0.3/24"))
	a.block("apart", "ip saddr 10.0.0.3 drop; ip daddr 10.0.0.3 drop;")
	b.start()
	a.start(b.addr())
	c.start(b.addr())
	w.reach(a, b, c)
	a.pings(3, "relayed via weave02 (punch), back via weave02 (punch) time=", 0, "weave03", "-c", "3", "-i", "0.2", "-s", "1376")
	a.pings(3, "direct over punch 10.0.0.2:6785 time=", 0, "weave02", "-c", "3", "-i", "0.2")

	a.unblock("apart")
	if _, err := a.Command(w.within(patience), "connect", c.addr()); err != nil {
		t.Fatal(err)
	}
	w.joined(a, b, c)
	a.uses(c, "punch")
	c.uses(a, "punch")
	a.pings(3, "direct over punch 10.0.0.3:6785 time=", 0, c.Name, "-c", "3", "-i", "0.2")

	// Each end chooses the transport for what it sends.
	if _, err := c.Command(w.within(patience), "transport", "use", "weave01", "sleeve"); err != nil {
		t.Fatal(err)
	}
	c.uses(a, "sleeve")
	a.pings(1, "direct over punch 10.0.0.3:6785, back over sleeve time=", 0, "weave03", "-c", "1")

	c.freeze()
	a.pings(2, "no answer from weave03 (02:00:00:00:00:03): seq=", 1, "weave03", "-c", "2", "-i", "0.2", "-W", "0.5")
	c.thaw()
	if out, errs, code := a.ping("weave04"); code != 2 || out != "" || !strings.Contains(errs, "no peer has the name, nickname or address weave04") {
		t.Errorf("ping of an unknown peer = %d %s%s", code, out, errs)
	}
}

// TestPingBesideStockRouters: stock routers relay pings, but answer none, and no echo
// comes out behind one.
//
//	weave01 ── lan1 ── stock1 ── lan2 ──┬── weave02
//	                                    └── stock2
func TestPingBesideStockRouters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lan1, lan2 := w.lan("lan1"), w.lan("lan2")
	a := w.host("weave01", lan1.at("10.0.1.1/24"))
	s1 := w.stock("stock1", lan1.at("10.0.1.2/24"), lan2.at("10.0.2.2/24"))
	b := w.host("weave02", lan2.at("10.0.2.3/24"))
	s2 := w.stock("stock2", lan2.at("10.0.2.4/24"))
	s1.start()
	a.start("10.0.1.2")
	b.start("10.0.2.2")
	s2.start("10.0.2.2")
	w.joined(a, s1)
	w.joined(s1, b, s2)
	w.reach(a, s1, b, s2)
	w.settled(a, s1, b, s2)
	a.pings(3, "relayed via stock1 (sleeve), back via stock1 (sleeve) time=", 0, "weave02", "-c", "3", "-i", "0.2")

	out, errs, code := a.ping("stock1")
	if want := "is a stock Weave router and answers no pings; ping a container's address instead"; code != 2 || out != "" || !strings.Contains(errs, want) {
		t.Errorf("ping of a stock router = %d %s%s, want 2, %q", code, out, errs, want)
	}
	echoes := s2.box("192.168.99.4/24").capture("mshb")
	defer echoes.Close()
	out, errs, code = a.ping("stock2", "-c", "2", "-i", "0.2", "-W", "1")
	if code != 1 || strings.Count(out, "over the control plane within 1s, nothing was sent") != 2 || !strings.Contains(errs, "if stock2 is a stock Weave router") {
		t.Errorf("ping of a stock router far away = %d %s%s", code, out, errs)
	}
	if n := echoes.Count(func([]byte) bool { return true }); n > 0 {
		t.Errorf("%d echoes came out behind the stock router", n)
	}
}
