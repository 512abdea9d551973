// Command meshd joins hosts into one Ethernet. `meshd up` is the daemon; the
// other commands are clients of a running one.
//
//	meshd status ──► client ──► unix socket ──► server ──► Daemon (daemon.go)
//	curl, Prometheus ────────► api.http ──────►   │
//	                                              ▼
//	                                   Report ──► Status ──► JSON, text
//	                                          └─► weaveReport ─► weave's API
//
// run.go puts the daemon together and says in which order. What users see is in view*.go,
// what is wrong with it in problems*.go, and the tables in text.go and the files that are
// named for a command.
//
// A Report holds the values of the running components as they are. A Status is
// what users see of it: the schema of --json, cleaned of control characters,
// with what is wrong put in words. The tables are made of a Status, so that text
// and JSON say the same.
package main
