package main

import (
	"fmt"
	"strings"
)

// page is docs/benchmarks.md.
func (r *results) page() string {
	var out strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	p("# Benchmarks\n")
	p("Made by `make bench` from [benchmarks.json](benchmarks.json), where every single reading is; do not edit.\n")
	p("%s, %s, %d CPUs, %s, %s. Rounds: %d, %v per TCP run; four streams, both directions and MTU 9000 in %d of them; took %s. Load average before: %s.\n",
		r.Date.Format("2006-01-02 15:04 MST"), r.CPU, r.CPUs, r.Kernel, r.Go, r.Settings.Rounds, r.Settings.Time, r.Settings.Wide, r.Took, r.Load)
	p("![one TCP stream as a ratio to kernel VXLAN](benchmarks.svg)\n")
	p("## Figures to reach\n\n%s", r.figureTable().markdown())
	p("## veth underlay, MTU %d\n\n%s", normal, r.mainTable().markdown())
	for _, u := range underlays {
		if t := r.underlayTable(u.underlay, u.mtu); len(t.rows) > 0 {
			p("## %s\n\n%s", strings.ToUpper(u.title[:1])+u.title[1:], t.markdown())
		}
	}
	p("## What was measured\n\n%s", r.versionTable().markdown())
	if faults := r.faults(); len(faults) > 0 {
		p("Did not work:\n")
		for _, f := range faults {
			p("- %s", strings.ReplaceAll(f, "\n", " "))
		}
		p("")
	}
	out.WriteString(method)
	return out.String()
}

// versionTable names all variants, those that are missing with the reason.
func (r *results) versionTable() table {
	t := table{head: []string{"", "version", "carries", "encrypted"}}
	for _, e := range r.Variants {
		version := strings.ReplaceAll(e.Version, "\n", " ")
		if e.Missing != "" {
			version = "not measured: " + strings.ReplaceAll(e.Missing, "\n", " ")
		}
		carries, secret := "Ethernet frames", "no"
		if e.Layer == 3 {
			carries = "IP packets"
		}
		if e.Secret {
			secret = "yes"
		}
		t.rows = append(t.rows, []string{e.Title, version, carries, secret})
	}
	return t
}

const method = `## Method

` + "```" + `
box0 ── veth ── bridge ── overlay ── eth0 ═ underlay (veth) ═ eth0 ── overlay ── bridge ── veth ── box1
` + "```" + `

Everything is in network namespaces of one machine. Each round sets up every variant
anew, one after the other, and every second round in reverse order. Figures are medians over
the rounds, ratios medians of each round's own ratio.

- **TCP**: iperf3, received bits. **both ways**: the sum. **4 streams** likewise.
- **small kpps**: datagrams of 64 bytes of payload from one thread (sendmmsg), the highest rate at
  which less than 1 % is lost, each datagram counted once. ` + "`+`" + `: nothing was lost at the
  most the sender could offer, so the overlay may do more.
- **TCP RR**: one byte there and back on one connection without Nagle, blocking sockets, median
  and 99th percentile; **loaded**: the same beside a TCP stream of the same direction. **UDP RTT**: 64 bytes there
  and back.
- **CPU s/GB**: user and system time of both daemons over the TCP run, per 10⁹ bytes received;
  **machine**: busy time of the whole machine, iperf3 included.
- **RSS**: the larger daemon's at the end of its session on the veth underlay.
- **Underlay without segmentation offload**: TSO, GSO and UDP segmentation are off on both ends of the
  underlay, so that no packet larger than its MTU crosses (see bytes/packet), and the receiving kernel joins
  packets (GRO), as with any network card. A veth passes 64 KiB packets whole otherwise, which no wire does.
  Once more with GRO off: what a receiver without it would see.
- Inner MTU: what each overlay needs less than the underlay; meshd's and the stock
  router's own choice. With MTU 9000 meshd's bridge is told 8900.
- wireguard-go and nebula carry IP packets only: the hosts route between the same boxes.
- Allocations: of both daemons during the small-packet ramp (` + "`go_memstats_mallocs_total`" + `), less
  what they allocate at rest, per frame and daemon.

## Caveats

- Both hosts, both daemons, iperf3 and the kernel share the CPUs, so throughput is mostly one over
  CPU per byte. Compare ratios, not Gb/s.
- With few rounds on a machine that does other work, differences under about 1.3x mean little.
- Without a daemon the whole way of a small packet runs in the sender's thread; a daemon moves part of
  it to another CPU. More kpps than VXLAN does not mean cheaper forwarding.
- Peers run with their defaults, from Debian's packages; wireguard-go is the newest of the Go module proxy.
`
