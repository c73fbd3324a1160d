#!/bin/bash
# vmtest.sh [-k 6.12]... [-r REGEX] [-t SECONDS] [-o DIR] [-a] [-v] [PACKAGE...]: runs kernel tests (those of
# *_kernel_test.go) as root on stock Debian kernels, in a virtual machine that is emulated in full: no KVM, no
# network device, one boot a kernel for all packages. Without packages, what hack/vmtest.d/only lists.
#   -k KERNEL   a kernel series, of which the newest is taken that apt offers; default 6.12 and 6.1
#   -r REGEX    only the tests of that name          -v  print what passing tests log, too
#   -t SECONDS  for one machine in all; default 2100  -o  write DIR/KERNEL.json: which test ran, which was skipped
#   -a          leave out, and say so, a series that apt does not offer
# Exit code 0: all passed. WEFT_CACHE: where kernels are kept unpacked, one folder a version.
# make test-kernel runs all of it; docs/testing.md says more.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

# What tests and product call. A tool that is missing here is an error, since busybox has some of the same
# name that do less; of busybox only the applets below are there.
tools="dash ip bridge tc ss nft ping iperf3 tcpdump sysctl unshare nsenter setsid modprobe mount umount
	iptables iptables-save ip6tables ip6tables-save ipset"
for backend in nft legacy; do
	for family in iptables ip6tables; do tools="$tools $family-$backend $family-$backend-save $family-$backend-restore"; done
done
applets="awk basename cat chmod cp cut date dd dirname dmesg echo env false find grep head hostname id kill
	ln ls mkdir mktemp mv poweroff ps readlink rm rmdir sed seq sleep sort stat stty sync tail tee test timeout
	touch tr true uname wc"
# Network kinds, what they encrypt with, and whatever these depend on: modules load by themselves, as on a host.
modules="kernel/net/ kernel/drivers/net/ kernel/crypto/ kernel/lib/ kernel/arch/x86/crypto/"
without="kernel/drivers/net/(ethernet|wwan|hyperv|xen|phy|mdio|can|usb|wireless|pcs)|kernel/net/(wireless|mac80211|bluetooth|ceph|rds|sunrpc|9p|tipc|dccp|atm|batman|nfc|can)"

kernels="" regex="" out="" verbose="" any="" limit=2100
while getopts k:r:t:o:av o; do
	case $o in
	k) kernels="$kernels $OPTARG" ;;
	r) regex=$OPTARG ;;
	t) limit=$OPTARG ;;
	o) out=$OPTARG ;;
	a) any=1 ;;
	v) verbose=-v ;;
	*) sed -n '2,11s/^# *//p' "$0" >&2 && exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ -n "$kernels" ] || kernels="6.12 6.1"
cache=${WEFT_CACHE:-$PWD/.cache}
mkdir -p "$cache"
lock=/run/lock/weft-vmtest
[ -w "${lock%/*}" ] || lock=$cache/vmtest.lock
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

fail() { echo "vmtest: $*" >&2 && exit 1; }

for p in qemu-system-x86_64 cpio depmod apt-get dpkg-deb $tools; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$p" >/dev/null || fail "$p is not installed: hack/setup.sh test-kernel installs what is needed"
done
busybox=$(command -v busybox || echo /bin/busybox)
if ldd "$busybox" >/dev/null 2>&1; then fail "$busybox is not static: install busybox-static (hack/setup.sh test-kernel does)"; fi

# resolve SERIES: the package and version of the newest kernel of a series, without its debug and unsigned kinds.
resolve() {
	local names
	names=$(apt-cache pkgnames "linux-image-$1" | grep -E "^linux-image-${1//./\\.}\.[0-9].*-cloud-amd64$" | sort -rV)
	for n in $names; do
		v=$(apt-cache policy "$n" | awk '$1 == "Candidate:" {print $2}')
		[ -n "$v" ] && [ "$v" != "(none)" ] && echo "$n $v" && return
	done
	return 1
}

# fetch SERIES: sets $kernel to the folder that has vmlinuz and modules.cpio, filled if need be. Old versions
# leave Debian's archive, so where apt knows none, or cannot get the one it knows, its list is renewed once.
fetch() {
	local name version try
	mkdir -p "$cache/kernels"
	exec 9>"$cache/kernels/lock"
	flock 9
	for try in 1 2; do
		[ $try = 1 ] || [ "$(id -u)" != 0 ] || apt-get update -qq || true
		read -r name version < <(resolve "$1") || continue
		kernel=$cache/kernels/${name}_${version//:/%}
		[ ! -e "$kernel/modules.cpio" ] || break
		echo "vmtest: fetching $name $version" >&2
		(cd "$w" && apt-get -o APT::Sandbox::User=root download -qq "$name=$version") || continue
		dpkg-deb -x "$w"/*.deb "$w/deb"
		unpack "$w/deb"
		rm -rf "$w"/*.deb "$w/deb"
		break
	done
	exec 9>&-
	[ -n "$kernel" ] || fail "apt knows no kernel $1 (linux-image-$1.*-cloud-amd64): run apt-get update, or look at apt's sources"
	[ -e "$kernel/modules.cpio" ] || fail "apt cannot download $name $version: see its message above; run apt-get update"
}

# unpack DIR: from an unpacked package to vmlinuz and modules.cpio in $kernel.
unpack() {
	local t=$1 version root=$1/root
	version=$(ls "$t/lib/modules")
	find "$t/lib/modules" -name '*.ko.xz' -exec xz -d {} +
	depmod -b "$t" "$version"
	mkdir -p "$root/lib/modules/$version" "$t/done"
	# Each line of modules.dep is "module: what it depends on, all the way".
	(cd "$t/lib/modules/$version" && awk -v take="^(${modules// /|})" -v leave="^($without)" \
		'{f = $1; sub(/:$/, "", f)} f ~ take && f !~ leave {sub(":", ""); for (i = 1; i <= NF; i++) print $i}' modules.dep |
		sort -u | cpio -pdm --quiet "$root/lib/modules/$version" && cp modules.builtin* modules.order "$root/lib/modules/$version/")
	depmod -b "$root" "$version"
	(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$t/done/modules.cpio"
	mv "$t/boot/vmlinuz-$version" "$t/done/vmlinuz"
	rm -rf "$kernel" "$kernel.new"
	mv "$t/done" "$kernel.new" # maybe to another file system
	mv "$kernel.new" "$kernel"
}

# userland DIR: the tools with their libraries, a few applets, the files they read.
userland() {
	local r=$1 p l
	mkdir -p "$r"/{bin,dev,proc,sys,tmp,run,root,work,sbin,var/run} "$r"/usr/{bin,sbin} "$r/etc"
	cp "$busybox" "$r/bin/busybox"
	for p in $applets; do ln -s /bin/busybox "$r/bin/$p"; done
	for p in $tools; do
		p=$(PATH=$PATH:/usr/sbin:/sbin command -v "$p")
		cp -L "$p" "$r/usr/bin/"
		{ ldd "$p" 2>/dev/null || true; } | awk '/=> \//{print $3} $1 ~ /^\//{print $1}'
	done | sort -u | while read -r l; do mkdir -p "$r$(dirname "$l")" && cp -L "$l" "$r$l"; done
	for p in /usr/lib/*/xtables; do mkdir -p "$r$p" && cp "$p"/*.so "$r$p/"; done # the matches of iptables
	ln -s /usr/bin/dash "$r/bin/sh" # that of busybox would take its own ip and ping
	ln -s /usr/bin/modprobe "$r/sbin/modprobe" # the path that the kernel calls
	for p in protocols services iproute2 ethertypes; do [ ! -e "/etc/$p" ] || cp -rL "/etc/$p" "$r/etc/"; done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$r/etc/passwd"
	echo 'root:x:0:' >"$r/etc/group"
	echo '127.0.0.1 localhost vm' >"$r/etc/hosts"
	cp hack/vmtest.d/init "$r/init"
	cp hack/vmtest.d/go "$r/usr/bin/go"
	cp hack/in-netns "$r/usr/bin/in-netns"
	chmod 755 "$r/init" "$r/usr/bin/go" "$r/usr/bin/in-netns"
}

# names DIR FILE...: the kernel tests of a package, one a line.
names() {
	local dir=$1 f
	shift
	for f; do
		case $f in *_kernel_test.go) sed -nE 's/^func ((Test|Fuzz|Example)[A-Za-z0-9_]*)\(.*/\1/p' "$dir/$f" ;; esac
	done | { grep -vx TestMain || true; }
}

# pick SERIES PACKAGE NAMES: a line "PACKAGE PATTERN" for each run of the package's tests on that kernel.
pick() {
	local package series tests subtests chosen
	if [ -n "$listed" ] && [ -z "$regex" ]; then
		grep -v '^#' hack/vmtest.d/only
	else
		echo "$2 * ${regex:-.}"
	fi | while read -r package series tests subtests; do
		[ "$package" = "$2" ] || continue
		case $series in "*" | "$1") ;; *) continue ;; esac
		chosen=$(echo "$3" | grep -E "$tests" || true)
		[ -n "$chosen" ] && echo "$2 ^($(echo "$chosen" | paste -sd '|'))\$${subtests:+/^($subtests)\$}"
	done || true
}

# tests DIR PACKAGE...: the test programs, what their folders hold, and for each kernel a list of what to run.
tests() {
	local r=$1/work path dir files all series
	shift
	mkdir -p "$r"
	: >"$work/broken"
	go list -e -f '{{.ImportPath}} {{.Dir}} {{join .TestGoFiles " "}} {{join .XTestGoFiles " "}}' "$@" | grep '_kernel_test\.go' >"$work/list" ||
		fail "no *_kernel_test.go in $*"
	while read -r path dir files; do
		# shellcheck disable=SC2086
		all=$(names "$dir" $files)
		for series in $kernels; do
			pick "$series" "$path" "$all" >>"$work/packages.$series"
		done
		cat "$work"/packages.* | grep -q "^$path " || continue
		mkdir -p "$r/$path"
		if ! go test -c -ldflags '-s -w' -o "$r/$path/package.test" "$path"; then echo "$path" >>"$work/broken" && continue; fi
		[ ! -d "$dir/testdata" ] || cp -r "$dir/testdata" "$r/$path/"
		# shellcheck disable=SC2086
		if [ ! -e "$r/bin" ] && (cd "$dir" && grep -qE 'weft/cmd/|RunWithWeft' $files); then
			go build -trimpath -ldflags '-s -w' -o "$r/bin/" ./cmd/... || echo weft/cmd/... >>"$work/broken"
		fi
	done <"$work/list"
	cat "$work"/packages.* "$work/broken" | grep -q . || fail "no test is called ${regex:-as hack/vmtest.d/only says}"
}

pack() { (cd "$1" && find . | cpio -o -H newc -R 0:0 --quiet); }

go build -o "$work/testlog" ./internal/testkit/cmd/testlog
if [ -n "$any" ]; then
	offered=""
	for series in $kernels; do
		# On a fresh machine apt knows nothing yet.
		resolve "$series" >/dev/null || [ "$(id -u)" != 0 ] || apt-get update -qq || true
		if resolve "$series" >/dev/null; then offered="$offered $series"; else echo "vmtest: NOT RUN on kernel $series, which apt does not offer"; fi
	done
	kernels=$offered
	[ -n "$kernels" ] || exit 0
fi
listed=""
[ $# -gt 0 ] || { listed=1 && set -- ./...; }
userland "$work/user"
pack "$work/user" >"$work/user.cpio"
tests "$work/tests" "$@"
pack "$work/tests" >"$work/tests.cpio"
rm -rf "$work/user" "$work/tests"
[ -z "$out" ] || mkdir -p "$out"

# boot SERIES. The machine has one processor, and its clock counts instructions (250 million a second) and leaps
# over idle time: what the tests see of time does not depend on what else this host does.
boot() {
	local series=$1 w=$work/$1 kernel="" status=0
	mkdir -p "$w/list/work"
	fetch "$series"
	cp "$work/packages.$series" "$w/list/work/packages"
	{ cat "$kernel/modules.cpio" "$work/user.cpio" "$work/tests.cpio" && pack "$w/list"; } >"$w/initrd"
	mkfifo "$w/tests"
	# The emulator keeps a processor busy: one at a time on this host, whoever starts it.
	exec 8>"$lock"
	flock 8
	# The first serial line is the kernel's console, the second carries the tests' output. A panic ends the machine.
	timeout --foreground "$limit" qemu-system-x86_64 -accel tcg -icount shift=2,sleep=off -cpu Nehalem -smp 1 -m 4G -nodefaults -display none -no-reboot \
		-serial "file:$w/console" -serial stdio -kernel "$kernel/vmlinuz" -initrd "$w/initrd" </dev/null >"$w/tests" \
		-append "console=ttyS0 panic=-1 quiet mitigations=off cryptomgr.notests no_timer_check tsc=reliable audit=0 apparmor=0 selinux=0 nokaslr random.trust_cpu=on" &
	machine=$!
	trap 'kill $machine' TERM
	"$work/testlog" machine $verbose -name "$series" -broken "$work/broken" ${out:+-o "$out/$series.json"} <"$w/tests" &
	wait $! || status=1
	wait $machine || status=1
	if grep -aqE "$trouble" "$w/console"; then
		echo "vmtest: the console of kernel $series says:" >&2
		grep -aE -A25 "$trouble" "$w/console" | head -n 80 >&2
		status=1
	fi
	return $status
}

trouble='Kernel panic|BUG:|Oops|WARNING: CPU|Out of memory'
status=0
for series in $kernels; do
	[ -s "$work/packages.$series" ] || [ -s "$work/broken" ] || { echo "vmtest: no test for kernel $series" && continue; }
	boot "$series" &
	wait $! || status=1
done
exit $status
