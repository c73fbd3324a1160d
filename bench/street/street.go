// Package street measures what a policy driver's rules cost packets: a network namespace as a node's, with two pods that
// talk and rules that the driver wrote, and nothing else of a node service. Namespaces have no names: all is gone when
// the process ends.
package street

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"weft/internal/kernel"
	"weft/model"
	"weft/node"
	"weft/policy"
)

// Backends are the names of the drivers.
const (
	NFTables = "nftables"
	IPTables = "iptables"
)

// Spec is what rules a street has.
type Spec struct {
	Bare     bool // none at all
	Policies int  // that select the talking pods, of three rules each; the very last rule allows
	Others   int  // that select other pods of the node only
	Members  int  // of the set by which the talking pods' one policy allows; 0: there is none
}

// String names what is measured under, as records have it.
func (s Spec) String() string {
	switch {
	case s.Bare:
		return "no rules"
	case s.Members > 0:
		return fmt.Sprintf("a set of %d members", s.Members)
	case s.Others > 0:
		return fmt.Sprintf("%d policies of other pods", s.Others)
	}
	return fmt.Sprintf("%d policies", s.Policies)
}

// Street is such a node.
type Street struct {
	node, a, b *os.File
	links      *kernel.PodLinks
	driver     node.PolicyDriver
	handle     *kernel.Handle
	listener   net.Listener
	serving    sync.WaitGroup
	from, to   *net.UDPConn // of an answered flow
	lone, sink *net.UDPConn // of one that nobody answers
}

var addrA, addrB = netip.MustParseAddr("10.1.200.1"), netip.MustParseAddr("10.1.200.2")

// New makes a street with the rules of spec, by the backend.
func New(ctx context.Context, backend string, spec Spec) (_ *Street, err error) {
	s := &Street{}
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("make a node with %v by %s: %w", spec, backend, err)
		}
	}()
	for _, ns := range []**os.File{&s.node, &s.a, &s.b} {
		if *ns, err = kernel.NewScratch(); err != nil {
			return nil, err
		}
	}
	if err := kernel.SetSysctlAt(path(s.node), "net/ipv4/ip_forward", "1"); err != nil {
		return nil, err
	}
	if s.handle, err = kernel.OpenAt(path(s.node)); err != nil {
		return nil, err
	}
	// Without any address the kernel takes all others for broadcast.
	if err := s.handle.LinkSetUp(ctx, "lo"); err != nil {
		return nil, err
	}
	if err := kernel.Do(path(s.node), func() (err error) { s.links, err = kernel.OpenPodLinks(); return err }); err != nil {
		return nil, err
	}
	c, err := compiler(spec)
	if err != nil {
		return nil, err
	}
	for i, p := range []struct {
		ns      *os.File
		address netip.Addr
	}{{s.a, addrA}, {s.b, addrB}} {
		if err := s.pod(ctx, c, fmt.Sprint("talks", i), p.ns, p.address); err != nil {
			return nil, err
		}
	}
	if !spec.Bare {
		s.driver = node.OpenPolicyDriver(backend, s.handle, slog.New(slog.DiscardHandler))
		if _, err := s.driver.Apply(ctx, c.Flush()); err != nil {
			return nil, err
		}
	}
	return s, s.talk()
}

// Close ends it.
func (s *Street) Close() {
	for _, c := range []*net.UDPConn{s.from, s.to, s.lone, s.sink} {
		if c != nil {
			_ = c.Close()
		}
	}
	if s.listener != nil {
		_ = s.listener.Close()
	}
	s.serving.Wait()
	if s.driver != nil {
		s.driver.Close()
	}
	if s.links != nil {
		s.links.Close()
	}
	if s.handle != nil {
		s.handle.Close()
	}
	for _, ns := range []*os.File{s.a, s.b, s.node} {
		if ns != nil {
			_ = ns.Close()
		}
	}
}

func path(ns *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", ns.Fd()) }

// pod makes a pod's link as the node service does, with its route, and tells the compiler of it.
func (s *Street) pod(ctx context.Context, c *policy.Compiler, name string, ns *os.File, address netip.Addr) error {
	id := model.EndpointID{Namespace: "ns", Pod: name, Interface: "eth0"}
	l := kernel.PodLink{Device: kernel.PodDeviceName(id), IfName: "eth0", MTU: 1500, Addresses: []netip.Addr{address}}
	mac, err := s.links.Create(ctx, ns, l)
	if err != nil {
		return err
	}
	l.MAC = mac
	if err := s.links.Configure(ctx, l); err != nil {
		return err
	}
	if err := kernel.RouteTable(s.handle).Put(ctx, kernel.RouteKey{Table: kernel.MainTable, Dst: model.HostPrefix(address)}, kernel.Route{Type: kernel.Unicast, Device: l.Device}); err != nil {
		return err
	}
	if err := s.links.Activate(ctx, ns, l); err != nil {
		return err
	}
	return c.SetEndpoint(&model.Endpoint{ID: id, Device: l.Device, MAC: mac, Addresses: l.Addresses,
		Labels: map[string]string{"talks": "yes"}, Profiles: []string{"kns.ns"}})
}

// talk opens the sockets.
func (s *Street) talk() error {
	err := kernel.Do(path(s.b), func() (err error) {
		s.listener, err = net.Listen("tcp", netip.AddrPortFrom(addrB, 80).String())
		return err
	})
	if err != nil {
		return err
	}
	s.serving.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1)) // until the other end resets it
			_ = c.Close()
		}
	})
	if s.from, s.to, err = s.flow(1000); err != nil {
		return err
	}
	if s.lone, s.sink, err = s.flow(1001); err != nil {
		return err
	}
	return s.answer()
}

// flow opens two connected UDP sockets at a port, one in each pod.
func (s *Street) flow(port int) (from, to *net.UDPConn, err error) {
	a, b := &net.UDPAddr{IP: addrA.AsSlice(), Port: port}, &net.UDPAddr{IP: addrB.AsSlice(), Port: port}
	dial := func(ns *os.File, local, remote *net.UDPAddr) (c *net.UDPConn, err error) {
		err = kernel.Do(path(ns), func() (err error) {
			c, err = net.DialUDP("udp4", local, remote)
			return err
		})
		return c, err
	}
	from, err1 := dial(s.a, a, b)
	to, err2 := dial(s.b, b, a)
	return from, to, errors.Join(err1, err2)
}
