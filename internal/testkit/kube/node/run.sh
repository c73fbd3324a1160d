#!/bin/bash
# One Kubernetes node: the first process of its own PID and mount namespace, in its own network namespace. What it
# starts ends with it. NODE_DIR has its configuration, and its disk, which outlives it; KUBE_BIN Kubernetes' programs,
# PROXY_CONFIG is empty without kube-proxy.
set -eu
hostname "$NODE_NAME"
mount -t proc proc /proc
# What a host has for itself: two kubelets share none of it. /run is gone with the mount namespace, the disk is not.
mount -t tmpfs node /run
mkdir -p /run/netns /run/own /run/lock
disk=$NODE_DIR/disk
mkdir -p "$disk"/{lib,log,opt,etc,work}
mount --bind "$disk/lib" /var/lib
mount --bind "$disk/log" /var/log
mount --bind "$disk/opt" /opt
mount -t overlay node -o lowerdir=/etc,upperdir="$disk/etc",workdir="$disk/work" /etc
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/containerd /var/lib/kubelet
# As from the package that comes with Kubernetes; containerd before 2.0 needs loopback.
cp /usr/lib/cni/{loopback,portmap,bandwidth} /opt/cni/bin/
# These settings are the whole machine's. A kubelet changes them unless they have its values: it is shown files that do.
for kv in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 \
	kernel/keys/root_maxbytes=25000000; do
	f=/run/own/$(echo "${kv%%=*}" | tr / _)
	echo "${kv##*=}" >"$f"
	mount --bind "$f" "/proc/sys/${kv%%=*}"
done
mount --make-rshared /

# keep LOG COMMAND...: runs it, again when it ends, as a host's service manager does.
keep() {
	local log=$NODE_DIR/$1.log
	shift
	while :; do
		"$@" >>"$log" 2>&1 || echo "$1 ended: $?" >>"$log"
		sleep 0.2
	done
}

keep containerd containerd -c "$NODE_DIR/containerd.toml" &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
if [ ! -e "$disk/imported" ]; then
	for image in "$NODE_DIR"/images/*; do ctr -n k8s.io images import "$image" >>"$NODE_DIR/images.log" 2>&1; done
	touch "$disk/imported"
fi
if [ -n "$PROXY_CONFIG" ]; then
	keep proxy "$KUBE_BIN/kube-proxy" --config="$PROXY_CONFIG" &
fi
keep kubelet "$KUBE_BIN/kubelet" --config="$NODE_DIR/kubelet.yaml" --kubeconfig="$NODE_DIR/kubeconfig" --hostname-override="$NODE_NAME" \
	--node-ip="$NODE_IPS" --v=2 &
wait
