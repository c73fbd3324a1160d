#!/bin/bash
# figures.sh: measures what docs/performance.md has beside the figures of make bench: by tests, one package after the other,
# and by weft bench policy in a size that make bench has no time for. All records go into one file in bench/results.
set -euo pipefail
cd "$(dirname "$0")/.."
name=bench/results/$(date -u +%F)-$(git rev-parse --short=12 HEAD)-tests
file=$name.jsonl
for ((i = 2; ; i++)); do
	[ -e "$file" ] || break
	file=$name-$i.jsonl
done
mkdir -p bench/results
: >"$file"
WEFT_FIGURES=$PWD/$file
WEFT_FIGURES_VERSION=$(git describe --tags --always --dirty)
export WEFT_FIGURES WEFT_FIGURES_VERSION
failed=""

# measure PACKAGE TESTS [ARGUMENT...]: it fails too where no record comes of it, as of tests that are not there
measure() {
	local package=$1 tests=$2 before
	before=$(wc -l <"$file")
	shift 2
	go test -exec "$PWD/hack/in-netns" -count=1 -timeout 30m -run "^($tests)\$" "$@" "$package" || failed="$failed $package"
	[ "$(wc -l <"$file")" -gt "$before" ] || failed="$failed $package-without-records"
}

measure ./model/topology - -bench 'Compute5000$'
measure ./routing TestReflectionReachesAll
measure ./routing/bgp 'TestAgentKilled|TestSpeakerKilled|TestBFD'
measure ./node/cni TestLatency
measure ./policy/nftables 'TestBigSet|TestConnectionRate'
measure ./encryption/wireguard 'TestScale|TestThroughput|TestAgentKilled|TestProcessKilled'
measure ./e2e 'TestBGPManyRoutes|TestBGPMesh|TestModeChanges|TestModeChangesControl|TestSabotage|TestEverySizeAnswered'
measure ./e2e 'TestEncryptionOnAndOff|TestEncryptionOutlivesTheNode|TestWithoutAKey|TestPolicyFromTheFirstPacket|TestPolicyOutlivesTheNode'

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
hack/in-netns bin/weft bench policy --backend nftables --policies 2000 --endpoints 100000 --changes 20 --starts 1 --rounds 0 --rate 1000 --out "$dir" || failed="$failed weft-bench-policy"
[ ! -e "$dir/policy.jsonl" ] || cat "$dir/policy.jsonl" >>"$file"
echo "$(wc -l <"$file") records in $file"
[ -z "$failed" ] || { echo "not measured, or failed:$failed" >&2 && exit 1; }
