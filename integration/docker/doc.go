// Package docker plays the story that meshd is made for on real Docker engines: three
// hosts, an engine and meshd in a container on each, containers that reach each other,
// and the death of the first host. Each host is a machine of the lab, with an engine of
// its own.
//
//	weave01 10.142.130.16 ──┐
//	                        ├── VLAN 1 ── router ── VLAN 2 ── weave03 10.107.153.153
//	weave02 10.142.130.17 ──┘
package docker
