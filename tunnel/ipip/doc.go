// Package ipip owns the shared IPIP device weft-ipip (IP protocol 4, RFC 2003) and what decides who
// may send through it. There are two ways to one wire format: the kernel's own device with an
// nftables guard, and, for kernels without the ipip module, an empty device with two eBPF programs.
// Routes through the device are the routing area's, and which peers there are is package tunnel's.
package ipip

// Debian packages: clang llvm libbpf-dev linux-libc-dev. Builds and tests need none of them.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go@v0.22.0 -target bpfel,bpfeb -no-global-types -cflags "-O2 -g -Wall -Werror -Wno-parentheses -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" programs bpf/ipip.c
