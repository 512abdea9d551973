// Package lab builds networks out of network namespaces, for the demo and the
// integration tests. It asks the kernel only, through netlink and /proc, and
// runs no other program but those it is told to; NATs need nft besides.
//
//	Lab "meshd-demo"                    one prefix, one owner
//	 ├─ Switch "lan1"   a bridge        /run/netns/meshd-demo-lan1
//	 ├─ Router "gw"     forwards IP     /run/netns/meshd-demo-gw
//	 ├─ Namespace "weave01"             a host: processes, ports, routes
//	 │    └─ Process                    meshd up
//	 ├─ Namespace "c1"                  a container, attached to weave01's bridge
//	 └─ Internet "core"                 a router in the middle
//	     ├─ Site "home"                 hosts on a LAN behind a gateway, mostly a NAT
//	     └─ Carrier "isp"               a NAT with sites behind it
//
// Namespaces are bind mounts, so `ip netns exec meshd-demo-weave01 sh` enters
// one. What a lab makes lies in its namespaces, below Dir, and in no other place;
// Close removes it all. What a killed owner left behind the next New with the
// same prefix or a Sweep removes: a lab is alive while its lock is held.
//
// Everything here needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN).
package lab
