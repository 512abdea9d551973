// Package packaging checks what is packaged: the script mesh, the systemd unit, the
// Debian package, the Docker Compose example and the default configuration. It has no
// other content than its tests: make packaging runs them.
//
//	mesh ──► fake docker, fake meshd (this test binary by another name) ──► argv, recorded
//	make deb ──► dpkg --root, a directory that holds a busybox and nothing else
package packaging
