// Package docker has the reference story as a test: what a user of Weave Net typed, with
// the script mesh, on hosts with a real Docker engine each. It has no code but tests.
//
//	weave01 10.142.130.16   weave02 10.142.130.17      weave03 10.107.153.153
//	httpd .10, client1 .11  client2 .21                client3 .31
//	       │                       │                          │
//	 ══════╧═══════ lan1 ══════════╧═══╤═══ router ═══ lan2 ══╧══
//
// A host is a network, mount and host name namespace with a dockerd of its own in it;
// the overlay is 192.168.99.0/24 and fd00:99::/64. Images are made on the spot: box is a
// static busybox, meshd what `make image` builds.
//
// A host more has three engines, Docker, podman and containerd, and containers of each on
// its bridge, without the script: TestEngines.
//
// It needs root, busybox (static), docker and dockerd, TestEngines podman and containerd
// too, and skips without, but fails where CI or MESHD_NEED_DOCKER is set.
//
// MESHD_DOCKER_DIR names a directory with the programs of another Docker (docker, dockerd,
// containerd, containerd-shim-runc-v2, docker-proxy, docker-init, runc, docker-compose),
// which are taken in place of the installed ones:
//
//	MESHD_DOCKER_DIR=/opt/docker-28 go test -v -run TestReferenceStory ./integration/docker
//
// So the story was played with Docker 20.10.24, 26.1.5, 28.5.2 and 29.7.2, with 29.7.2 also where
// --firewall-backend=nftables is set, and with Compose 2.26.1 and 2.40.3. Newer engines need
// a newer runc: 29 does not work with runc 1.1.
package docker
