// Package publish makes a service in a container anywhere on the overlay
// reachable on a port of this host.
package publish
