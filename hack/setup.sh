#!/bin/sh
# setup.sh WHAT: installs what `make WHAT` needs on a fresh Debian machine, and says what it installs.
set -eu
packages="iproute2 iputils-ping"
case "${1:-}" in
demo) packages="$packages bird2" ;; # the router between the racks speaks BGP
bench) packages="$packages iperf3 nftables iptables ipset tcpdump" ;;
test-kube) packages="$packages containerd runc containernetworking-plugins nftables iptables procps util-linux mount bash-static" ;; # a container runtime for each node
test | test-kernel)
	# iptables and ipset are a backend of policy; bird2 and frr are neighbours in BGP; from qemu on it is the test machine: the emulator, what its
	# file system is made with, what is in it.
	packages="$packages iperf3 nftables tcpdump iptables ipset bird2 frr procps util-linux mount qemu-system-x86 busybox-static kmod cpio xz-utils dash"
	;;
esac
missing=""
for p in $packages; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
go_old="Go 1.21 or newer is needed: unpack the Go project's archive into /usr/local and put /usr/local/go/bin into PATH"
if ! command -v go >/dev/null 2>&1; then
	# Debian 12 has Go 1.19, which cannot fetch the toolchain that go.mod names.
	[ "$(id -u)" != 0 ] || apt-get update -qq
	offered=$(apt-cache policy golang-go | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}//p')
	if [ -z "$offered" ] || [ "$offered" = "(none)" ] || dpkg --compare-versions "$offered" lt 1.21; then
		echo "$go_old (this Debian has ${offered:-none})" >&2
		exit 1
	fi
	missing="$missing golang-go"
fi
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "missing Debian packages:$missing (run as root, or: apt-get install$missing)" >&2
		exit 1
	fi
	echo "installing Debian packages:$missing"
	export DEBIAN_FRONTEND=noninteractive
	# bird2 and frr would begin to speak for this machine: demo and tests run them in namespaces of their own.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
# From 1.21 on, go fetches the toolchain that go.mod names.
if ! go version | awk '{split(substr($3, 3), v, "."); exit !(v[1] > 1 || v[2] >= 21)}'; then
	echo "$go_old (this is $(go version))" >&2
	exit 1
fi
if [ "${1:-}" != build ] && [ "$(id -u)" != 0 ]; then
	echo "note: not root, so what needs network namespaces cannot run here" >&2
fi
