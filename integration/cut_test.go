package integration

import (
	"fmt"
	"os/exec"
	"strings"

	"meshd/internal/lab"
)

// nft runs the nft program in a namespace; the test is skipped without it.
func (w *world) nft(n *lab.Namespace, rules string) {
	w.Helper()
	w.needNFT()
	w.must(nft(n, rules))
}

// nft loads rules in a namespace; it may be called from any goroutine.
func nft(n *lab.Namespace, rules string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	var out []byte
	err := n.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return fmt.Errorf("nft in %s: %w: %s", n.Name, err, out)
	}
	return nil
}

func (w *world) needNFT() {
	w.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		w.Skip("nft is not installed (Debian package nftables)")
	}
}

// cutOff drops everything that the host sends or receives on the underlay.
func (h *host) cutOff() {
	h.w.Helper()
	h.w.nft(h.Host, `
table inet cut {
	chain in  { type filter hook input priority 0; iifname "eth*" drop; }
	chain out { type filter hook output priority 0; oifname "eth*" drop; }
}`)
}

// heal ends cutOff.
func (h *host) heal() {
	h.w.Helper()
	h.w.nft(h.Host, "delete table inet cut")
}

// outage is a way in which a host drops out, and how it comes back.
type outage struct {
	name      string
	out, back func(h *host)
	needs     func(w *world)
}

var outages = []outage{
	{"killed", (*host).kill, (*host).again, func(*world) {}},
	{"frozen", (*host).freeze, (*host).thaw, func(*world) {}},
	{"cut off", (*host).cutOff, (*host).heal, (*world).needNFT},
}

func (o outage) String() string { return fmt.Sprintf("host is %s", o.name) }
