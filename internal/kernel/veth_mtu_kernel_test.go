package kernel_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
)

func podID(name string) model.EndpointID {
	return model.EndpointID{Namespace: "default", Pod: name, Interface: "eth0"}
}

// setMTU changes one link and compares both ends with what MTUs then says.
func (h *podHost) setMTU(c kernel.PodMTUChange) {
	h.t.Helper()
	if err := errors.Join(h.links.SetMTUs(context.Background(), []kernel.PodMTUChange{c})...); err != nil {
		h.t.Error(err)
	}
	if got := h.mtus()[c.Device]; got != c.PodMTU {
		h.t.Errorf("%s has %+v, want %+v", c.Device, got, c.PodMTU)
	}
}

func (h *podHost) mtus() map[string]kernel.PodMTU {
	h.t.Helper()
	m, err := h.links.MTUs(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

func both(mtu int) kernel.PodMTU { return kernel.PodMTU{Host: mtu, Pod: mtu} }

func TestPodMTU(t *testing.T) {
	h := newPodHost(t)
	ns := newNamespace(t, "a")
	a4, a6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	l := h.attach(ns, podID("a"), a4, a6)
	if got := h.mtus(); len(got) != 1 || got[l.Device] != both(1450) {
		t.Fatalf("got %v, want %s with 1450 on both ends", got, l.Device)
	}
	before := h.ip(ns, "-4", "route") + h.ip(ns, "-6", "route") + h.ip(ns, "neigh")
	for _, m := range []kernel.PodMTU{both(8950), both(1400), {Host: 1500, Pod: 1280}, both(1280), both(1500)} {
		h.setMTU(kernel.PodMTUChange{Device: l.Device, Netns: ns, PodMTU: m})
	}
	h.ip(ns, "link", "set", "eth0", "down")
	h.ip(ns, "link", "set", "eth0", "name", "renamed")
	h.ip(ns, "link", "set", "renamed", "up")
	h.setMTU(kernel.PodMTUChange{Device: l.Device, Netns: ns, PodMTU: both(1300)})
	h.ip(ns, "link", "set", "renamed", "down")
	h.ip(ns, "link", "set", "renamed", "name", "eth0")
	if !strings.Contains(before, "default") || !strings.Contains(before, "fd09::1") {
		t.Errorf("nothing to compare:\n%s", before)
	}
	absent := kernel.PodDeviceName(podID("nobody"))
	if err := errors.Join(h.links.SetMTUs(context.Background(), []kernel.PodMTUChange{{Device: absent, PodMTU: both(1400)}})...); err != nil {
		t.Errorf("a link that is not there: %v", err)
	}
}

// TestPodMTUKeepsTheRest: addresses, routes and neighbour entries inside the pod stay.
func TestPodMTUKeepsTheRest(t *testing.T) {
	h := newPodHost(t)
	ns := newNamespace(t, "a")
	l := h.attach(ns, podID("a"), netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1"))
	state := func() string {
		return h.ip(ns, "-4", "route") + h.ip(ns, "-6", "route") + h.ip(ns, "-br", "addr") + h.ip(ns, "neigh", "show", "nud", "permanent")
	}
	before := state()
	for _, mtu := range []int{9000, 1280, 1450} {
		h.setMTU(kernel.PodMTUChange{Device: l.Device, Netns: ns, PodMTU: both(mtu)})
		if got := state(); got != before {
			t.Errorf("after MTU %d:\n%swant\n%s", mtu, got, before)
		}
	}
}

// TestPodMTUWithoutPath: the runtime took the mount of the namespace away, or put another one there,
// and a process of the pod lives on.
func TestPodMTUWithoutPath(t *testing.T) {
	h := newPodHost(t)
	ns, stranger := newNamespace(t, "a"), newNamespace(t, "b")
	l := h.attach(ns, podID("a"), netip.MustParseAddr("10.9.0.1"))
	other := h.attach(stranger, podID("b"), netip.MustParseAddr("10.9.0.2"))
	h.setMTU(kernel.PodMTUChange{Device: l.Device, Netns: "/run/netns/gone", PodMTU: both(1400)}) // by its mount
	h.setMTU(kernel.PodMTUChange{Device: l.Device, Netns: stranger, PodMTU: both(1410)})
	h.setMTU(kernel.PodMTUChange{Device: l.Device, Netns: "/etc/hostname", PodMTU: both(1420)})
	sleep := exec.Command("sleep", "60")
	if err := kernel.Do(ns, sleep.Start); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	if err := kernel.DeleteNamedNetns(ns[len(kernel.NetnsDir)+1:]); err != nil {
		t.Fatal(err)
	}
	h.setMTU(kernel.PodMTUChange{Device: l.Device, Netns: ns, PodMTU: both(1430)}) // by its process
	if got := h.mtus()[other.Device]; got != both(1450) {
		t.Errorf("the other pod has %+v, want what it had", got)
	}
	_ = sleep.Process.Kill()
	_ = sleep.Wait()
	// Now nobody holds it: the kernel takes the link with it.
	testkit.Eventually(t, 5*time.Second, "the link goes with the namespace", func() bool {
		if err := errors.Join(h.links.SetMTUs(context.Background(), []kernel.PodMTUChange{{Device: l.Device, Netns: ns, PodMTU: both(1440)}})...); err != nil {
			t.Logf("while the namespace goes: %v", err)
		}
		_, there := h.mtus()[l.Device]
		return !there
	})
}

// TestPodMTUUnderTCP changes the MTU up and down under a TCP connection between two pods, both ways.
func TestPodMTUUnderTCP(t *testing.T) {
	h := newPodHost(t)
	h.ip(h.path, "link", "set", "lo", "up") // a host without any address takes every neighbour for a broadcast
	a, b := newNamespace(t, "a"), newNamespace(t, "b")
	la := h.attach(a, podID("a"), netip.MustParseAddr("10.9.0.1"))
	lb := h.attach(b, podID("b"), netip.MustParseAddr("10.9.0.2"))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var ln net.Listener
	err := kernel.Do(b, func() (err error) { ln, err = net.Listen("tcp", "10.9.0.2:7777"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var client net.Conn
	err = kernel.Do(a, func() (err error) { client, err = net.DialTimeout("tcp", "10.9.0.2:7777", 3*time.Second); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	stop := make(chan struct{})
	var sums []chan result
	for _, c := range [][2]net.Conn{{client, server}, {server, client}} {
		for _, x := range c {
			_ = x.SetDeadline(time.Now().Add(30 * time.Second))
		}
		sums = append(sums, send(c[0].(*net.TCPConn), stop), receive(c[1]))
	}
	changes := 0
	for _, mtu := range []int{1300, 9000, 576, 1500, 1280, 65535, 1450} {
		for _, c := range []kernel.PodMTUChange{{Device: la.Device, Netns: a, PodMTU: both(mtu)}, {Device: lb.Device, Netns: b, PodMTU: both(mtu)}} {
			h.setMTU(c)
			changes++
		}
		time.Sleep(100 * time.Millisecond)
	}
	close(stop)
	for i := 0; i < len(sums); i += 2 {
		sent, got := wait(ctx, t, sums[i]), wait(ctx, t, sums[i+1])
		if sent.err != nil || got.err != nil || sent.n == 0 || sent.n != got.n || !bytes.Equal(sent.sum, got.sum) {
			t.Errorf("direction %d: sent %d bytes (%v), received %d (%v)", i/2, sent.n, sent.err, got.n, got.err)
		}
		t.Logf("direction %d: %d bytes arrived whole over %d changes", i/2, got.n, changes)
	}
}

type result struct {
	n   int64
	sum []byte
	err error
}

func wait(ctx context.Context, t *testing.T, c chan result) result {
	t.Helper()
	select {
	case r := <-c:
		return r
	case <-ctx.Done():
		t.Fatal("the TCP stream hangs")
		return result{}
	}
}

func send(c *net.TCPConn, stop chan struct{}) chan result {
	done := make(chan result, 1)
	go func() {
		buf, sum, n := make([]byte, 32<<10), sha256.New(), int64(0)
		for i := range buf {
			buf[i] = byte(rand.Uint32())
		}
		for {
			select {
			case <-stop:
				done <- result{n, sum.Sum(nil), c.CloseWrite()}
				return
			default:
			}
			m, err := c.Write(buf)
			sum.Write(buf[:m])
			if n += int64(m); err != nil {
				done <- result{n, nil, err}
				return
			}
		}
	}()
	return done
}

func receive(c net.Conn) chan result {
	done := make(chan result, 1)
	go func() {
		sum := sha256.New()
		n, err := io.Copy(sum, c)
		done <- result{n, sum.Sum(nil), err}
	}()
	return done
}

// TestHundredPodMTUs measures a change of a hundred pods in one call.
func TestHundredPodMTUs(t *testing.T) {
	h := newPodHost(t)
	const pods = 100
	var changes []kernel.PodMTUChange
	for i := range pods {
		ns := newNamespace(t, fmt.Sprint("p", i))
		l := h.attach(ns, podID(fmt.Sprint("p", i)), netip.AddrFrom4([4]byte{10, 9, 1, byte(i)}))
		changes = append(changes, kernel.PodMTUChange{Device: l.Device, Netns: ns})
	}
	for _, mtu := range []int{1400, 1500, 1300} {
		for _, pathless := range []bool{false, true} {
			want := mtu
			for i := range changes {
				if pathless {
					want = mtu + 1
				}
				changes[i].PodMTU = both(want)
			}
			given := changes
			if pathless {
				given = append([]kernel.PodMTUChange(nil), changes...)
				for i := range given {
					given[i].Netns = "/run/netns/gone"
				}
			}
			start := time.Now()
			err := errors.Join(h.links.SetMTUs(context.Background(), given)...)
			took := time.Since(start)
			if err != nil {
				t.Fatal(err)
			}
			start = time.Now()
			got := h.mtus()
			read := time.Since(start)
			wrong := 0
			for _, m := range got {
				if m != both(want) {
					wrong++
				}
			}
			if len(got) != pods || wrong > 0 || took > testkit.Patient(2*time.Second) {
				t.Errorf("MTU %d: %d of %d links wrong, took %v", want, wrong, len(got), took)
			}
			t.Logf("MTU %d on both ends of %d pods (path gone: %v): %v; to read them all: %v", want, pods, pathless,
				took.Round(time.Microsecond), read.Round(time.Microsecond))
		}
	}
}
