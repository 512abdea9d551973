# Nothing needs to be set up first: what a target needs and the machine lacks is
# installed by the target itself (Debian packages, as root).

GO       ?= go
PKG      ?= ./...
FUZZTIME ?= 10s
BENCH    ?= .
MESHD_SOAK ?= 30m

# make bench and make soak-traffic: see docs/benchmarks.md, or
# `dist/bench -help` for what ONLY and MEASURES may be. STOCK_SLEEVE in the
# environment names a script that starts a stock router, to be measured too.
BENCHTIME ?= 3s
ROUNDS    ?= 3
WIDE      ?= 1
ONLY      ?=
MEASURES  ?=
OUT       ?= dist/bench
SOAKTIME  ?= 10m

# A clone that git does not trust (another owner) cannot be stamped.
BUILDVCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)
export GOFLAGS := $(GOFLAGS) -buildvcs=$(BUILDVCS)

# What staticcheck looks for: bugs, simplifications, unused code, error texts.
CHECKS := SA*,S1*,U1000,ST1005,ST1008,ST1012,ST1017,ST1019

.DEFAULT_GOAL := help
.PHONY: help build image deb packaging demo test race fuzz dashboard microbench bench soak-traffic integration natmatrix soak lint check clean portable

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./meshd, a static binary
	@.ci/need $(GO) certificates
	CGO_ENABLED=0 $(GO) build -trimpath -o meshd ./cmd/meshd

# The version of what ./meshd is: v1.2.3 is 1.2.3, "devel" is 0.0.0-devel.
version = $(shell ./meshd version | awk '{ v = $$2; sub(/^v/, "", v); gsub(/\+/, ".", v); if (v !~ /^[0-9]/) v = "0.0.0-" v; print v }')
arch = $(shell $(GO) env GOARCH)

image: build ## build the image meshd:VERSION, and meshd:latest, with the Docker of this host
	@.ci/need docker
	rm -rf dist/image && mkdir -p dist/image/root/var
	cp meshd dist/image/root/ && ln -s ../run dist/image/root/var/run
	docker build -q -f packaging/Dockerfile --build-arg VERSION=$(version) -t meshd:$(version) -t meshd:latest dist/image

deb: build ## build dist/meshd_VERSION_ARCH.deb
	@.ci/need $(GO) certificates
	rm -rf dist/deb && mkdir -p dist/deb
	cp meshd dist/deb/
	./meshd completion bash > dist/deb/meshd.bash
	./meshd completion zsh > dist/deb/_meshd
	./meshd completion fish > dist/deb/meshd.fish
	export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || date +%s); \
	./meshd docs man dist/deb/man8 && gzip -9n dist/deb/man8/*.8 && \
	VERSION=$(version) ARCH=$(arch) $(GO) tool -modfile=packaging/go.mod nfpm package -f packaging/nfpm.yaml -p deb -t dist/meshd_$(version)_$(arch).deb

packaging: ## check the script mesh, the unit, and what else is packaged
	@.ci/need $(GO) certificates shellcheck dash? busybox? systemd-analyze?
	cd packaging && $(GO) test -count=1 ./...

demo: build ## show a mesh of three hosts in network namespaces (root)
	./meshd demo

test: ## run all tests (root: those in network namespaces too)
	@.ci/need $(GO) certificates nft? iperf3? turnserver? shellcheck? dash? busybox? systemd-analyze? dockerd? podman? ctr?
	$(GO) test -p 1 -timeout 15m $(PKG)
	$(if $(filter ./...,$(PKG)),cd integration/dashboard && $(GO) test ./...)
	$(if $(filter ./...,$(PKG)),cd packaging && $(GO) test ./...)

dashboard: ## check the queries of the Grafana dashboard and of the alerts against real metrics
	@.ci/need $(GO) certificates
	cd integration/dashboard && $(GO) test -count=1 ./...

portable: ## run whole daemons and the demo once more with all offloads off (root)
	@.ci/need $(GO) certificates nft? iperf3? turnserver?
	MESHD_TAP_OFFLOAD=off MESHD_UDP_OFFLOAD=off $(GO) test -count=1 -timeout 15m ./integration

race: ## run all tests with the race detector
	@.ci/need $(GO) certificates gcc nft? iperf3? turnserver?
	CGO_ENABLED=1 $(GO) test -race -timeout 30m $(PKG)

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@.ci/need $(GO) certificates
	GO="$(GO)" .ci/fuzz $(FUZZTIME) $(PKG)

microbench: ## run the Go benchmarks that match BENCH (all)
	@.ci/need $(GO) certificates
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(PKG)

dist/bench: build
	$(GO) build -trimpath -o $@ ./integration/bench
.PHONY: dist/bench

bench: dist/bench ## measure meshd beside other overlays (root; ONLY, ROUNDS, BENCHTIME, OUT)
	@.ci/need iperf3 fastd? tincd? openvpn? nebula?
	GO="$(GO)" dist/bench -time $(BENCHTIME) -rounds $(ROUNDS) -wide $(WIDE) -only '$(ONLY)' -measures '$(MEASURES)' -out '$(OUT)'

soak-traffic: dist/bench ## carry checked traffic for SOAKTIME (10m) and see that nothing changes or leaks (root)
	dist/bench -soak $(SOAKTIME) -only '$(ONLY)'

integration: ## run whole daemons in network namespaces (root)
	@.ci/need $(GO) certificates nft? iperf3? turnserver? busybox? docker? dockerd? podman? ctr?
	$(GO) test -count=1 -timeout 20m ./integration/...

# MESHD_NATHOLD=5m watches each cell for so long, NATHELD cells at a time.
NATHELD ?= 24
natmatrix: ## run all pairs of NATs and print what became of each (root; MESHD_NATHOLD=5m)
	@.ci/need $(GO) certificates nft
	MESHD_NATMATRIX=all $(GO) test -count=1 -timeout 2h $(if $(MESHD_NATHOLD),-parallel $(NATHELD)) -v -run '^TestNATMatrix$$' ./integration | grep -E '^(\||---|FAIL|ok|panic)|_test.go.*(want|not within|was|held|again and again)'

soak: ## harm a mesh for MESHD_SOAK (30m) and see that nothing leaks (root)
	@.ci/need $(GO) certificates nft? iperf3? turnserver?
	MESHD_SOAK=$(MESHD_SOAK) $(GO) test -count=1 -timeout 0 -v -run '^TestSoak$$' ./integration/...

lint: ## check format, vet and staticcheck
	@.ci/need $(GO) certificates
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	cd integration/dashboard && $(GO) vet ./...
	cd packaging && $(GO) vet ./...
	$(GO) tool staticcheck -checks '$(CHECKS)' ./...

check: test portable lint ## what CI runs

clean: ## remove what was built
	rm -rf meshd dist
