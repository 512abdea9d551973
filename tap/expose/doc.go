// Package expose gives the host addresses on the overlay, and keeps the firewall
// rules that go with the bridge.
//
//	                 netdev meshd ingress     inet meshd input
//	containers ── weave ──┬── no route back ──┬── guard ──► the host's own ports
//	                      │   into the overlay│
//	                      │                   └── FORWARD ── inet meshd postrouting ──► others
//	                      └── to other ports: FORWARD too, where br_netfilter is loaded
//
// # What Set makes
//
// Always: in FORWARD of iptables' tables ip and ip6 filter, as far as they are
// there, a rule that accepts from the bridge to the bridge; in our table inet
// meshd the guard, which drops what comes out of the bridge for the ports of the
// mesh. For each exposed address: the address, tagged as ours; in FORWARD a rule
// that accepts from its subnet and one that accepts to it; in inet meshd
// masquerading both ways; in netdev meshd a drop of what the host would route from
// the bridge into the subnet, so that exposed subnets do not meet on the host, unless
// RouteBetween asks for it.
// Frames that the bridge only bridges are never dropped nor changed. Docker's
// ports that are not published stay so.
//
// The host's forwarding is left as it is: it opens more than the overlay, and for
// IPv6 it turns off router advertisements on the uplink. Problems names the
// command where it is off.
//
// # How, and what was tried
//
// A static image has no iptables, so rules go to the kernel by netlink. Tried on
// Linux 6.18 with iptables 1.8.9 (nf_tables), Docker 20.10 and nft 1.0.6:
//
//   - An accept in a table of ours does not overrule a drop in another: under
//     Docker's FORWARD DROP rules must be in table ip filter itself. Drops and NAT
//     do as well in our own, which no flush of iptables reaches.
//   - iptables-save reads our rules of meta, payload, counter and verdict, in
//     iptables-nft's own encoding, as `-A FORWARD -i weave -o weave -m comment
//     --comment meshd -j ACCEPT`; iptables -C and -D find them. The comment goes
//     into the rule's user data, not into an xt match: then nft prints it too, it
//     survives `nft list ruleset | nft -f -`, where a match is lost, and the kernel
//     need not have nft_compat. iptables-restore turns it into a match: both are
//     known again.
//   - FORWARD, not DOCKER-USER: `iptables -F` takes the jump to DOCKER-USER away,
//     the chain stays and nobody comes by. Our rules are behind that jump where it
//     is there, so what the user says in DOCKER-USER holds. Docker started before,
//     after and again leaves them alone, puts its own before them, and takes
//     FORWARD's policy to DROP without harm to the overlay.
//   - br_netfilter shows bridged frames as from weave to weave, as routed ones are.
//     The match physdev would tell them apart but loads br_netfilter, which changes
//     every bridge of the host; `meta ibrname` is not in every kernel; the MAC would
//     be that of any port. The ingress hook of the bridge device sees only what the
//     bridge hands to the host. After routing, `iif 0` with a source that is not
//     local is a bridged frame (Linux 5.7).
//   - iptables-legacy writes with its own program only: used where the host has it
//     and legacy tables are in use, else Problems says what to type.
//   - Chains of others that drop (nft, firewalld) are not ours to change: Problems
//     names the chain and the command.
//
// # Others' things
//
// Ours are the tables called meshd, rules with the comment "meshd" in FORWARD, and
// addresses with the protocol 109 (IFA_PROTO, Linux 5.18) or, on older kernels,
// those that a comment in inet meshd names. Everything else is left alone; where
// the kernel takes another's address away with ours it is set again.
package expose
