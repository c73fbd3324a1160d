#!/bin/bash
# kubetools.sh [NAME...]: builds Kubernetes' own programs from the Go module proxy, at the versions that
# test/kubetools/go.mod names, and prints the folder that has them. Without names it builds all:
# kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl. What is built already is
# not built again: there is one folder for each state of go.mod and go.sum, below WEFT_CACHE (default .cache).
# The first build takes minutes (on two cores 8), 3 GB of Go's build cache and 2 GB of its module cache.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 # another value would build everything anew
tools=${*:-kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl}
cache=${WEFT_CACHE:-$PWD/.cache}
key=$(cat test/kubetools/go.mod test/kubetools/go.sum | sha256sum | cut -c1-12)
out=$cache/kube/$key
mkdir -p "$out"
exec 9>"$out/lock"
flock 9 # two builds at once would only be slower

cd test/kubetools
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/client-go/pkg/version.gitVersion=$version"
for t in $tools; do
	[ ! -x "$out/$t" ] || continue
	echo "building $t $version" >&2
	trap 'rm -f "$out/.$t"' EXIT
	nice -n 10 go build -trimpath -ldflags "-s -w $stamp" -o "$out/.$t" "k8s.io/kubernetes/cmd/$t"
	mv "$out/.$t" "$out/$t" # whole or not at all
done
echo "$out"
