package integration

import (
	"os"
	"path/filepath"
	"testing"
)

// Passwords of a test.
const (
	oldPassword = "the password that has been known for too long"
	newPassword = "the password that takes its place from today on"
)

// passwords writes the host's password file, one password a line.
func (h *host) passwords(lines ...string) {
	h.w.Helper()
	text := ""
	for _, l := range lines {
		text += l + "\n"
	}
	h.w.must(os.WriteFile(h.passwordFile(), []byte(text), 0o600))
}

func (h *host) passwordFile() string { return filepath.Join(h.Dir, "password") }

// reload makes the daemon read its settings again.
func (h *host) reload() {
	h.w.Helper()
	out, err := h.Command(h.w.within(patience), "reload")
	h.w.must(err)
	h.w.Logf("%s: %s", h.NickName, out)
}

// TestPasswordRotation: a mesh gets a new password host by host. No session and no
// ping is lost, and whoever starts on the way finds all others.
//
//	weave01 ──┐
//	weave02 ──┼── lan ── late, stale
//	weave03 ──┘
func TestPasswordRotation(t *testing.T) {
	once(t)
	t.Parallel()
	w := newWorld(t)
	lan := w.lan("lan")
	hosts := []*host{
		w.host("weave01", lan.at("10.0.0.1/24")),
		w.host("weave02", lan.at("10.0.0.2/24")),
		w.host("weave03", lan.at("10.0.0.3/24")),
	}
	for _, h := range hosts {
		h.passwords(oldPassword)
		h.Env = []string{"MESHD_PASSWORD_FILE=" + h.passwordFile()}
	}
	w.mesh(hosts...)
	boxes := w.boxes(hosts...)
	w.answers(boxes...)
	there, back := boxes[0].pings(boxes[1]), boxes[1].pings(boxes[0])
	since := hosts[0].since(hosts[1])
	for _, lines := range [][]string{{newPassword, oldPassword}, {newPassword}} {
		for i, h := range hosts {
			h.passwords(lines...)
			h.reload()
			if i == 1 && len(lines) == 2 { // one whose handshakes are new, in the middle of it
				hosts[2].kill()
				hosts[2].again()
				w.joined(hosts...)
			}
		}
		w.joined(hosts...)
	}
	if again := hosts[0].since(hosts[1]); again != since {
		t.Errorf("the session of weave01 and weave02 was made again at %s, it began at %s", again, since)
	}
	for _, x := range []*watched{there, back} {
		x.more(20)
		if s := x.end(); s.Lost() > 0 {
			t.Errorf("pings from %s: %v, want none lost", x.name, s)
		}
	}

	late := w.host("late", lan.at("10.0.0.4/24"))
	late.Env = []string{"MESHD_PASSWORD=" + newPassword}
	late.up(hosts[0].addr())
	w.joined(append(hosts, late)...)
	stale := w.host("stale", lan.at("10.0.0.5/24"))
	stale.Env = []string{"MESHD_PASSWORD=" + oldPassword}
	stale.up(hosts[0].addr())
	stale.says(hosts[0].addr(), "password")
}
