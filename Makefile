# What can be done here. Every target installs nothing but what `make deps` lists, and only what is missing.

GO   ?= go
TAGS := seccomp netgo osusergo

# libcontainer needs cgo and, for its filter, libseccomp; both are linked statically.
# What `cairn version` says: the commit, and the tag before it where there is one. Outside of git it is what the go command knows.
VERSION := $(if $(wildcard .git),$(shell git describe --tags --always --dirty 2>/dev/null))
STATIC  := -trimpath -tags "$(TAGS)" -ldflags '-s -w -linkmode external -extldflags "-static" -X main.buildVersion=$(VERSION)'

BUILD_DEPS := ca-certificates file gcc git libc6-dev libseccomp-dev make pkg-config
DEMO_DEPS  := $(BUILD_DEPS) mmdebstrap uidmap
# docker.io brings containerd.
TEST_DEPS  := $(DEMO_DEPS) buildah busybox-static containerd curl docker-registry docker.io openssl podman qemu-user-static skopeo strace umoci util-linux xz-utils zstd

LINT_VERSION := v2.15.0

.PHONY: build test strangers lint demo stress bench-rungs bench conformance tiers torture deps clean

build: ## bin/cairn, one static binary
	@.ci/deps $(BUILD_DEPS)
	CGO_ENABLED=1 $(GO) build $(STATIC) -o bin/cairn ./cmd/cairn

test: deps ## unit and end-to-end tests, as root and as an unprivileged user
	$(GO) vet -tags "$(TAGS)" ./...
	$(GO) test -tags "$(TAGS)" -timeout 20m ./...

strangers: deps ## other people's code on our contracts: a module of its own, with dependencies that nothing else has
	cd test/classic && $(GO) test -tags "$(TAGS)" -timeout 20m ./...

lint: ## golangci-lint where it is installed, else gofmt and go vet
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else \
	  echo "golangci-lint $(LINT_VERSION) is not installed: gofmt and go vet only"; \
	  bad=$$(gofmt -l cmd executor pkg snapshot test); [ -z "$$bad" ] || { echo "not formatted: $$bad"; exit 1; }; \
	  $(GO) vet -tags "$(TAGS)" ./...; fi

demo: ## from nothing to a pushed, pulled and run image; several minutes the first time
	@.ci/deps $(DEMO_DEPS)
	@$(MAKE) --no-print-directory build
	@examples/demo bin/cairn

bench-rungs: deps build ## every isolation beside a plain chroot: an install, a compile, a stat storm, into docs/confinement.md (as root; BASE=IMAGE)
	@DOCS=$(CURDIR)/docs/confinement.md test/tiers/overhead bin/cairn $(ARGS)

STRESS ?= 10m
stress: ## 8 processes opening, renaming and executing on the isolation ptrace, for a while (STRESS=10m)
	CAIRN_STRESS=$(STRESS) $(GO) test -tags "$(TAGS)" ./executor/ptrace -run TestStress -count=1 -v -timeout 2h

.PHONY: image
IMAGE ?= cairn
image: build ## cairn's own image, built by cairn (examples/ci/Dockerfile); ARGS are further flags of cairn build: --push, --build-arg BASE=…
	bin/cairn build -f examples/ci/Dockerfile -t $(IMAGE) $(ARGS) bin

PEER ?= ./buildah
bench: deps build ## beside a peer (Debian's buildah; PEER=SCRIPT names another) and as the work grows, into docs/performance.md; ARGS=-quick leaves out the long part
	$(GO) test ./test/bench -run '^$$' -bench . -benchtime 1x -timeout 3h -args -cairn $(CURDIR)/bin/cairn -peer $(PEER) \
	  -docs $(CURDIR)/docs/performance.md $(ARGS)

conformance: build ## compare with the reference images, where the suite is at hand
	@suite=../shared/conformance/conformance; \
	if [ -x $$suite ]; then $$suite bin/cairn $(ARGS); else echo "$$suite is not here"; exit 1; fi

ROUNDS ?= 3
tiers: deps ## the same images in CI containers of every kind, into docs/confinement.md (as root; ARGS='-only T2,T3')
	$(GO) test -tags "$(TAGS)" ./test/tiers -run TestTable -count=1 -v -timeout 6h -args -rounds $(ROUNDS) -docs $(CURDIR)/docs/confinement.md $(ARGS)

.PHONY: realruns
realruns: deps ## what real RUN lines do, with each isolation: package managers, compilers, run times (ARGS='-only ptrace')
	$(GO) test -tags "$(TAGS)" ./test/realruns -count=1 -v -timeout 2h -args -large $(ARGS)

TIMES    ?= 1
FUZZTIME ?= 30s
torture: deps ## hostile input, faults and load at length (TIMES=10 FUZZTIME=1h for a night, TIMES=0.2 for a while), into docs/reliability.md; goes on where it was interrupted
	test/torture/run $(TIMES) $(FUZZTIME) '$(ONLY)'

deps: ## the Debian packages that building and testing need
	@.ci/deps $(TEST_DEPS)

clean:
	rm -rf bin .cache
