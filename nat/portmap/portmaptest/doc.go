// Package portmaptest plays home gateways for tests: NAT-PMP (RFC 6886) and
// UPnP-IGD servers that speak on the sockets they are given, on loopback or in a
// network namespace. They keep a table of mappings and forward nothing: who wants
// that installs what Table.Changed tells.
//
//	NATPMP  one UDP socket, port 5351 ──┐
//	                                    ├── Table
//	IGD     SSDP sockets, port 1900   ──┤
//	        HTTP: description, SOAP   ──┘
//
// Each can be told to misbehave.
package portmaptest
