// Package demo tells meshd's reference story on one machine: three hosts on two
// VLANs, a container on each, one Ethernet over all of them, and the death and
// return of the host that the others were told of.
//
//	weave01 10.142.130.16/26 ─┐ VLAN 1             VLAN 2
//	  └ 192.168.99.10         ├──────── router ───────── weave03 10.107.153.153/26
//	weave02 10.142.130.17/26 ─┘                            └ 192.168.99.31
//	  └ 192.168.99.21
//
// Everything is real but the machines, which are network namespaces of the
// kernel (package lab): each host runs `meshd up` as its own process.
package demo
