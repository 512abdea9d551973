// Command bench measures meshd beside other overlays, for `make bench`, and
// carries checked traffic through it for long, for `make soak-traffic`.
//
//	box0 ethwe ── veth ── bridge ── TAP      eth0 ═ underlay ═ eth0      TAP ── bridge ── veth ── ethwe box1
//	                      └─ host0: the overlay's daemon    the other one, host1 ─┘
//
// Each overlay under test is a variant: a few lines that start it on the hosts
// of a bed. Every round sets up and measures all variants in turn, so that what
// else the machine does hits all of them, and figures are medians over the
// rounds, ratios medians of each round's own ratio. The underlay is a veth pair,
// over which the kernel passes 64 KiB packets whole, and the same pair with
// segmentation offload off, over which packets go as over a wire.
//
// Everything happens in namespaces of internal/lab: nothing else of the machine
// is touched, and nothing is left behind, however the program ends.
package main
