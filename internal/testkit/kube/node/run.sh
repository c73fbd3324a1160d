#!/bin/bash
# One Kubernetes node: the first process of its own PID and mount namespace, in its own network namespace. What it
# starts ends with it. NODE_DIR has its configuration, KUBE_BIN Kubernetes' programs, PROXY_CONFIG is empty without
# kube-proxy.
set -eu
hostname "$NODE_NAME"
mount -t proc proc /proc
# What a host has for itself: two kubelets share none of it. Everything is gone with the mount namespace.
mount -t tmpfs node /run
mkdir -p /run/netns /run/own/{upper,work} /run/lock
for d in /var/lib /var/log /opt; do mount -t tmpfs node "$d"; done
mount -t overlay node -o lowerdir=/etc,upperdir=/run/own/upper,workdir=/run/own/work /etc
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

containerd -c "$NODE_DIR/containerd.toml" >"$NODE_DIR/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in "$NODE_DIR"/images/*; do ctr -n k8s.io images import "$image" >>"$NODE_DIR/images.log" 2>&1; done
if [ -n "$PROXY_CONFIG" ]; then
	"$KUBE_BIN/kube-proxy" --config="$PROXY_CONFIG" >"$NODE_DIR/proxy.log" 2>&1 &
fi
"$KUBE_BIN/kubelet" --config="$NODE_DIR/kubelet.yaml" --kubeconfig="$NODE_DIR/kubeconfig" --hostname-override="$NODE_NAME" \
	--node-ip="$NODE_ADDRESS" --v=2 >"$NODE_DIR/kubelet.log" 2>&1 &
wait
