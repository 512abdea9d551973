// Package engine finds containers by what a user calls them, and tells when they start
// and end.
//
//	                  ┌─ docker      Docker's API on a unix socket; podman speaks it too
//	"web" ──► Find ───┼─ containerd  its runtime state directory
//	"docker:web"      └─ plain       a process (pid:1234), a namespace (netns:foo, a path)
//	                        │
//	           report ◄── queue ◄── events of each engine
//
// Engines come and go: a socket that is not there today is asked again tomorrow. What
// they answer is not trusted: it is bounded in size and time, and checked. What users
// type is parsed before it goes anywhere: a name that no engine could have given is
// refused, so nothing that is put into a path or a URL needs to be escaped.
package engine
