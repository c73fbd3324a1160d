package cni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
)

// rig is a host namespace with a testNode in it, a real etcd, and libcni with the real weft-cni: what
// a container runtime has.
type rig struct {
	t      testing.TB
	host   testkit.NS
	dir    string
	bin    string
	server *etcd.Server
	store  *etcd.Store
	cni    *libcni.CNIConfig
	list   *libcni.NetworkConfigList
	node   *child
}

// newRig starts everything; careless makes the store faster than a real one, and is never used where
// times are measured.
func newRig(t testing.TB, careless bool) *rig {
	t.Helper()
	testkit.LeakCheck(t)
	host := testkit.NewNetns(t)
	testkit.Run(t, host, "ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
	testkit.Run(t, host, "ip", "addr", "add", "fd00:1::1/128", "dev", "lo")
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := kernel.SetSysctlAt(host.Path, s, "1"); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{t: t, host: host, dir: shortDir(t), bin: buildPlugin(t)}
	r.startStore(careless)
	t.Cleanup(r.stopStore)
	r.apply(pool("pool4", "10.64.0.0/16"), pool("pool6", "fd64::/112"))
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{r.bin}, filepath.Join(r.dir, "cache"), nil)
	r.configure("1.1.0", nil)
	return r
}

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-cni-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// buildPlugin builds bin/weft-cni as `make build` does.
func buildPlugin(t testing.TB) string {
	t.Helper()
	dir := shortDir(t)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "weft-cni"), "weft/cmd/weft-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build weft-cni: %v\n%s", err, out)
	}
	return dir
}

func (r *rig) startStore(careless bool) {
	r.t.Helper()
	var err error
	r.server, err = etcd.StartServer(context.Background(), etcd.ServerConfig{DataDir: filepath.Join(r.dir, "d"),
		Socket: filepath.Join(r.dir, "s"), NoFsync: careless, Tick: 10 * time.Millisecond})
	if err != nil {
		r.t.Fatal(err)
	}
	if r.store, err = etcd.Open(context.Background(), etcd.Config{Endpoints: []string{r.server.Endpoint()}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stopStore() {
	if r.server == nil {
		return
	}
	if err := errors.Join(r.store.Close(), r.server.Close()); err != nil {
		r.t.Error(err)
	}
	r.server = nil
}

func pool(name, cidr string) *v3.IPPool {
	p := &v3.IPPool{TypeMeta: metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: "IPPool"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.CIDR = cidr
	return p
}

func (r *rig) apply(objects ...v3.Object) {
	r.t.Helper()
	for _, o := range objects {
		if _, err := r.store.Create(context.Background(), o); err != nil {
			r.t.Fatal(err)
		}
	}
}

// configure sets the conflist; fields are added to weft-cni's configuration.
func (r *rig) configure(version string, fields map[string]any) {
	r.t.Helper()
	plugin := map[string]any{"type": "weft-cni", "socket": filepath.Join(r.dir, "cni.sock"), "log_level": "info",
		"ipam": map[string]any{"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}}
	for k, v := range fields {
		plugin[k] = v
	}
	b, err := json.Marshal(map[string]any{"cniVersion": version, "name": "weft", "plugins": []any{plugin}})
	if err == nil {
		r.list, err = libcni.ConfListFromBytes(b)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// child is a running testNode.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}

	mu    sync.Mutex
	calls map[string][]time.Duration // by command, of those that succeeded
}

// start runs the node in the host's namespace and waits until it serves.
func (r *rig) start(n testNode) *child {
	r.t.Helper()
	n.Dir, n.Store = r.dir, r.server.Endpoint()
	b, err := json.Marshal(n)
	if err != nil {
		r.t.Fatal(err)
	}
	c := &child{cmd: exec.Command(os.Args[0]), ended: make(chan struct{}), calls: map[string][]time.Duration{}}
	c.cmd.Env = append(os.Environ(), nodeVariable+"="+string(b))
	if testing.Verbose() {
		c.cmd.Stderr = os.Stderr
	}
	_ = os.Remove(n.socket())
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	r.host.Do(r.t, c.cmd.Start)
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		r.t.Logf("node: %s", lines.Text())
		if strings.HasPrefix(lines.Text(), "error") {
			_ = c.cmd.Wait()
			r.t.Fatal("the node did not start")
		}
	}
	go func() {
		defer close(c.ended)
		for lines.Scan() {
			c.note(lines.Text())
		}
	}()
	r.node = c
	r.t.Cleanup(func() { c.stop(r.t) })
	return c
}

func (c *child) note(line string) {
	var op, result string
	var us int64
	if n, _ := fmt.Sscanf(line, "done %s %s %d", &op, &result, &us); n == 3 && result == "ok" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls[op] = append(c.calls[op], time.Duration(us)*time.Microsecond)
	}
}

func (c *child) took(op string) []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration(nil), c.calls[op]...)
}

// stop ends the node as a service manager does; one that is dead already is fine.
func (c *child) stop(t testing.TB) {
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.stdin.Close()
	select {
	case <-c.ended:
	case <-time.After(20 * time.Second):
		t.Error("the node did not stop within 20 s")
		_ = c.cmd.Process.Signal(syscall.SIGQUIT)
		<-c.ended
	}
	_ = c.cmd.Wait()
}

// died waits for the node to end by itself.
func (c *child) died(t testing.TB) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(10 * time.Second):
		t.Error("the node is alive, but was to die")
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
	_ = c.cmd.Wait()
}

// runtime returns what the runtime says of one container.
func (r *rig) runtime(container, pod string, ns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: container, NetNS: ns, IfName: "eth0", Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", pod}, {"K8S_POD_INFRA_CONTAINER_ID", container}}}
}

func (r *rig) add(rt *libcni.RuntimeConf) (*types100.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	res, err := r.cni.AddNetworkList(ctx, r.list, rt)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(res)
}

func (r *rig) mustAdd(rt *libcni.RuntimeConf) *types100.Result {
	r.t.Helper()
	res, err := r.add(rt)
	if err != nil {
		r.t.Fatalf("ADD %s: %v", rt.ContainerID, err)
	}
	return res
}

func (r *rig) del(rt *libcni.RuntimeConf) error {
	return r.cni.DelNetworkList(context.Background(), r.list, rt)
}

func (r *rig) check(rt *libcni.RuntimeConf) error {
	return r.cni.CheckNetworkList(context.Background(), r.list, rt)
}

// code returns the CNI error code of an error, 0 for none.
func code(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func addrOf(t testing.TB, res *types100.Result, v4 bool) netip.Addr {
	t.Helper()
	for _, ip := range res.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		if a = a.Unmap(); a.Is4() == v4 {
			return a
		}
	}
	t.Fatalf("the result has no address of the family: %v", res.IPs)
	return netip.Addr{}
}

// reach sends to a closed port of the pod until the pod says so itself (ICMP port unreachable).
func (r *rig) reach(a netip.Addr, limit time.Duration) error {
	var c net.Conn
	err := kernel.Do(r.host.Path, func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(a, 9).String())
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	deadline := time.Now().Add(limit)
	buf := make([]byte, 1)
	for time.Now().Before(deadline) {
		if _, err = c.Write(buf); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err = c.Read(buf)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer: %w", a, err)
}

// left counts what belongs to pods: links on the host, addresses in the store's blocks, handles,
// records, journal entries.
func (r *rig) left() map[string]int {
	r.t.Helper()
	n := map[string]int{}
	links, err := r.host.Open(r.t).Links(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, l := range links {
		if kernel.IsPodDevice(l) {
			n["links"]++
		}
	}
	l, err := r.store.List(context.Background(), v3.KindWorkloadEndpoint, v3.KindIPAMHandle, v3.KindIPAMBlock)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, o := range l.Items {
		switch o := o.(type) {
		case *v3.WorkloadEndpoint:
			n["records"]++
		case *v3.IPAMHandle:
			n["handles"]++
		case *v3.IPAMBlock:
			for _, x := range o.Spec.Allocations {
				if x != nil {
					n["addresses"]++
				}
			}
		}
	}
	entries, err := filepath.Glob(filepath.Join(r.dir, "endpoints", "*.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	if len(entries) > 0 {
		n["journal entries"] = len(entries)
	}
	out, err := testkit.Try(r.t, r.host, "ip", "-o", "route", "show", "proto", "87")
	if err != nil {
		r.t.Fatal(err)
	}
	if c := strings.Count(out, "\n"); c > 0 {
		n["routes"] = c
	}
	return n
}

// nothingLeft fails the test unless all is gone; of says out of how many pods.
func (r *rig) nothingLeft(of int) {
	r.t.Helper()
	n := map[string]int{}
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if n = r.left(); len(n) == 0 {
			break
		}
	}
	r.t.Logf("left of %d pods: %d links, %d addresses, %d handles, %d records, %d journal entries, %d routes", of,
		n["links"], n["addresses"], n["handles"], n["records"], n["journal entries"], n["routes"])
	if len(n) > 0 {
		r.t.Errorf("left of %d pods: %v", of, n)
	}
}

func (r *rig) record(pod string) *v3.WorkloadEndpoint {
	r.t.Helper()
	o, err := r.store.Get(context.Background(), datastore.Key{Kind: v3.KindWorkloadEndpoint, Namespace: "default",
		Name: recordName(testNodeName, "k8s", pod, "eth0")})
	if err != nil {
		r.t.Fatal(err)
	}
	return o.(*v3.WorkloadEndpoint)
}
