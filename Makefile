export CGO_ENABLED := 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
TESTFLAGS ?=

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/weft and bin/weft-cni, static
	@hack/setup.sh build
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/weft ./cmd/weft-cni

demo: ## a three-node cluster on this machine carries pod traffic in each encapsulation
	@hack/setup.sh demo
	@$(MAKE) --no-print-directory build
	bin/weft demo

# Packages whose benchmarks need no kernel; make test runs each of them once, so that they keep working.
COMPILERS := ./model/... ./tunnel ./routing ./nat ./policy ./policy/eval ./encryption ./encryption/wireguard ./node/ipam/block ./internal/reconcile

test: ## all tests; those that need the kernel run in network namespaces of their own, some on other kernels too
	@hack/setup.sh test
	go vet ./...
	cd hack/image && go test ./...
	cd hack/render && go test ./...
	@mkdir -p .cache/tests && rm -f .cache/tests/*.json
	@go build -o .cache/testlog ./internal/testkit/cmd/testlog
	@go test -run '^$$' -bench . -benchtime 1x $(COMPILERS) >.cache/tests/bench.log 2>&1 || { cat .cache/tests/bench.log; exit 1; }
	.cache/testlog host -again 3 -o .cache/tests/host.json go test -json -exec $(CURDIR)/hack/in-netns -timeout 20m $(TESTFLAGS) -- ./...
	hack/vmtest.sh -a -o .cache/tests
	@.cache/testlog compare .cache/tests/*.json

test-kernel: ## kernel tests on stock Debian kernels 6.12 and 6.1, in an emulated machine; part of make test
	@hack/setup.sh test-kernel
	@mkdir -p .cache/tests && rm -f .cache/tests/6.*.json
	hack/vmtest.sh -o .cache/tests
	@test -e .cache/tests/host.json || { echo "not compared with the tests skipped on this machine: make test makes that list"; exit 0; }; \
		go run ./internal/testkit/cmd/testlog compare .cache/tests/*.json

bench: ## measure for ten minutes at most: encapsulations, MTUs, changes of mode, healing, policy, CNI, scale; report in bench/results
	@hack/setup.sh bench
	@$(MAKE) --no-print-directory build
	hack/in-netns bin/weft bench all --quick

bench-tests: ## figures that docs/performance.md has beside those of make bench, by tests; ten minutes, into bench/results
	@hack/setup.sh test
	@$(MAKE) --no-print-directory build
	hack/figures.sh

bench-go: ## Go's benchmarks: of the compilers, and of drivers and stores
	@hack/setup.sh bench
	go test -exec $(CURDIR)/hack/in-netns -run '^$$' -bench . $(COMPILERS) ./routing/fib ./node/policies ./node/ipam ./node/datastore/etcd ./api/... ./internal/kernel

lint: ## golangci-lint with the project's short list
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0 run ./...

generate: ## write deepcopy, CRDs and the command reference
	go generate ./...
	go run ./cmd/weft docs > docs/commands.md

verify: generate ## fail when generated files are not current
	@git diff --exit-code -- api manifests docs || { echo "generated files differ: commit what 'make generate' wrote" >&2; exit 1; }

# MB that the image may have on a node's disk, unpacked.
IMAGE_LIMIT := 90

image: ## a container image of the static binaries in bin/weft-image.tar, for "ctr -n k8s.io images import"; needs no registry
	@$(MAKE) --no-print-directory build
	cd hack/image && go run . -limit $(IMAGE_LIMIT) -o ../../bin/weft-image.tar -tag localhost/weft:$(VERSION) -tag localhost/weft:latest ../../bin/weft ../../bin/weft-cni

# The packages of these tests; one that needs Kubernetes and is not here is skipped by make test.
KUBE_PACKAGES := ./internal/testkit/kube ./api/schema ./node/datastore/kube ./controllers ./cli/install ./e2e/identity ./e2e/kube ./e2e/kubescale
KUBE_TEST = .cache/testlog host -again 2 go test -json -count=1 -exec $(CURDIR)/hack/in-netns

test-kube: ## tests with real Kubernetes, API server alone and clusters of two nodes; the first time it builds it from source, some 8 minutes. SHORT=1: what continuous integration runs
	@hack/setup.sh test-kube
	@hack/kubetools.sh >/dev/null
	@$(MAKE) --no-print-directory image
	@go build -trimpath -ldflags '-s -w' -o bin/testpod ./internal/testkit/kube/pod
	@cd hack/image && go run . -o ../../bin/testpod-image.tar -tag localhost/testpod:1 ../../bin/testpod
	@mkdir -p .cache && go build -o .cache/testlog ./internal/testkit/cmd/testlog
	WEFT_KERNEL_HAS=kube $(KUBE_TEST) -timeout 20m $(if $(SHORT),-short) $(TESTFLAGS) -- $(KUBE_PACKAGES)
ifndef SHORT
	@hack/conformance.sh
	WEFT_KERNEL_HAS=kube $(KUBE_TEST) -timeout 40m $(TESTFLAGS) -- ./e2e/conformance
endif
	WEFT_KERNEL_HAS=kube $(KUBE_TEST) -timeout 20m $(TESTFLAGS) -run Kubernetes -- ./cli ./e2e

.DEFAULT_GOAL := help
.PHONY: help build demo test bench bench-go bench-tests lint generate verify test-kernel test-kube image
