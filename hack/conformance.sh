#!/bin/bash
# conformance.sh: builds what e2e/conformance runs, from the Go module proxy at the versions that test/conformance/go.mod
# names, into bin/: the conformance suite of ClusterNetworkPolicy (cnp.test) and its CRD, Kubernetes' end-to-end specs of
# network policy (netpol), and the image of the pods of both (agnhost). The first build takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
bin=$PWD/bin
mkdir -p "$bin"
(
	cd test/conformance
	api=sigs.k8s.io/network-policy-api
	go test -c -trimpath -ldflags '-s -w' -o "$bin/cnp.test" "$api/conformance"
	cp -f "$(go list -m -f '{{.Dir}}' "$api")/config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml" "$bin/cnp-crd.yaml"
	chmod u+w "$bin/cnp-crd.yaml"
	go build -trimpath -ldflags '-s -w' -o "$bin/netpol" ./netpol
	go build -trimpath -ldflags '-s -w' -o "$bin/agnhost" k8s.io/kubernetes/test/images/agnhost
)
# The suite's pods are started by a shell.
cd hack/image
go run . -o "$bin/agnhost-image.tar" -tag localhost/agnhost:1 -cmd pause "$bin/agnhost" bin/bash=/bin/bash-static
