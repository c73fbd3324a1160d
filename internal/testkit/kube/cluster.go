package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// The roles that a Cluster has tokens for.
const (
	Admin = "admin"     // may do everything
	Node  = "weft-node" // what manifests/rbac gives the node service
	// Controllers is what manifests/controllers gives weft controllers.
	Controllers = "weft-controllers"
	Nobody      = "nobody" // known, and may do nothing
)

// Cluster is a kube-apiserver and its etcd.
type Cluster struct {
	// URL of the API server, on 127.0.0.1, or on its address in a Whole.
	URL  string
	addr netip.Addr // valid in a Whole: what nodes and pods find the API server by
	dir  string
	bin  string
	// services are the ranges of Services' addresses.
	services string

	etcd *embed.Etcd
	mu   sync.Mutex
	api  *exec.Cmd
	log  *os.File
	port int
	// starts are the times between which an API server had started and was not ready.
	starts [][2]time.Time
}

var shared struct {
	mu      sync.Mutex
	cluster *Cluster
	err     error
}

// Shared returns the one cluster of this test program, started by the first test that asks; the program's
// TestMain ends it with StopShared. Tests keep to namespaces and names of their own.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	bin := Binary(t, "kube-apiserver")
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil && shared.err == nil {
		shared.cluster, shared.err = start(bin, netip.Addr{}, false)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// StopShared ends what Shared started.
func StopShared() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster != nil {
		shared.cluster.Stop()
	}
	shared.cluster = nil
}

// Start starts a cluster that ends with the test.
func Start(t testing.TB) *Cluster {
	t.Helper()
	c, err := start(Binary(t, "kube-apiserver"), netip.Addr{}, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// startTimeout is generous: the API server needs 3 s on two idle cores.
const startTimeout = 90 * time.Second

// start starts what tests of a client need: this project's kinds and roles are there. Where nodes are to find it by
// an address, nothing is there but what Kubernetes brings.
func start(bin string, addr netip.Addr, dual bool) (_ *Cluster, err error) {
	dir, err := os.MkdirTemp("", "weft-kube-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, bin: bin, addr: addr, services: "10.96.0.0/16"}
	if dual {
		c.services += ",fd96::/112"
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start a Kubernetes API server: %w", err)
			c.Stop()
		}
	}()
	if err := c.startEtcd("etcd"); err != nil {
		return nil, err
	}
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	if c.port, err = freePort(); err != nil {
		return nil, err
	}
	host := "127.0.0.1"
	if addr.IsValid() {
		host = addr.String()
	}
	c.URL = fmt.Sprintf("https://%s:%d", host, c.port)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := c.StartAPI(ctx); err != nil {
		return nil, err
	}
	if addr.IsValid() {
		return c, nil
	}
	return c, c.applyManifests(ctx)
}

func (c *Cluster) startEtcd(name string) error {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(c.dir, name)
	cfg.UnsafeNoFsync, cfg.TickMs, cfg.ElectionMs = true, 10, 100
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{any}, []url.URL{any}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	c.etcd = e
	select {
	case <-e.Server.ReadyNotify():
		return nil
	case <-time.After(startTimeout):
		return errors.New("etcd is not ready")
	}
}

// writeFiles makes the key of service accounts and the file of tokens.
func (c *Cluster) writeFiles() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	var tokens bytes.Buffer
	fmt.Fprintf(&tokens, "%s,%s,1,\"system:masters\"\n", token(Admin), Admin)
	fmt.Fprintf(&tokens, "%s,%s,2\n%s,%s,3\n", token(Node), Node, token(Nobody), Nobody)
	for i := range maxMachines {
		fmt.Fprintf(&tokens, "%s,system:node:%s,1%d,\"system:nodes\"\n", token(machineName(i)), machineName(i), i)
	}
	fmt.Fprintf(&tokens, "%s,system:%s,4\n%s,%s,5\n", token(proxyUser), proxyUser, token(Controllers), Controllers)
	for name, b := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}),
		"tokens.csv": tokens.Bytes(),
		"audit.yaml": []byte(auditPolicy),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func token(role string) string { return "token-of-" + role }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// StartAPI starts the API server, and waits until it is ready. It is the first start, or one after StopAPI.
func (c *Cluster) StartAPI(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	log, err := os.OpenFile(filepath.Join(c.dir, "apiserver.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(c.bin, c.apiFlags()...)
	cmd.Stdout, cmd.Stderr = log, log
	ended, err := spawn(cmd)
	if err != nil {
		_ = log.Close()
		return err
	}
	c.api, c.log = cmd, log
	begin := time.Now()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver is not ready in time; it says:\n%s", c.lastLog())
		case <-ended:
			return fmt.Errorf("kube-apiserver has ended; it says:\n%s", c.lastLog())
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := c.Do(ctx, Admin, "GET", "/readyz", nil); err == nil {
			c.starts = append(c.starts, [2]time.Time{begin, time.Now()})
			return nil
		}
	}
}

// Starting tells whether an API server was not ready yet at that time. Until it has read the roles it refuses everybody.
func (c *Cluster) Starting(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.starts, func(s [2]time.Time) bool { return !at.Before(s[0]) && !at.After(s[1]) })
}

// spawn starts a program that does not outlive this one. The kernel ties that to the thread that starts it, and
// threads on which something changed the network namespace end early: so it has one of its own.
func spawn(cmd *exec.Cmd) (ended <-chan error, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started, done := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
		close(done)
	}()
	return done, <-started
}

func (c *Cluster) apiFlags() []string {
	at := func(name string) string { return filepath.Join(c.dir, name) }
	flags := []string{"--etcd-servers=http://" + c.etcd.Clients[0].Addr().String(),
		"--cert-dir=" + at("pki"), fmt.Sprintf("--secure-port=%d", c.port),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + at("sa.pub"),
		"--service-account-signing-key-file=" + at("sa.key"), "--service-cluster-ip-range=" + c.services,
		"--authorization-mode=Node,RBAC", "--token-auth-file=" + at("tokens.csv"), "--allow-privileged=true",
		"--audit-policy-file=" + at("audit.yaml"), "--audit-log-path=" + at("audit.log"), "--audit-log-mode=blocking"}
	if c.addr.IsValid() {
		return append(flags, "--bind-address=0.0.0.0", "--advertise-address="+c.addr.String(), "--kubelet-preferred-address-types=InternalIP")
	}
	return append(flags, "--bind-address=127.0.0.1", "--advertise-address=10.0.0.1", // loopback is refused
		"--disable-admission-plugins=ServiceAccount") // nobody makes the accounts that pods ask for
}

// EtcdEndpoint is the URL of the API server's etcd.
func (c *Cluster) EtcdEndpoint() string { return "http://" + c.etcd.Clients[0].Addr().String() }

// Backup stops everything, keeps a copy of what etcd has, and starts again.
func (c *Cluster) Backup(t testing.TB) { t.Helper(); c.offline(t, "etcd", "backup") }

// Restore puts back what Backup kept: the cluster is as it was then, and its revisions go on from there.
func (c *Cluster) Restore(t testing.TB) { t.Helper(); c.offline(t, "backup", "etcd") }

// offline copies one folder over another while nothing runs.
func (c *Cluster) offline(t testing.TB, from, to string) {
	t.Helper()
	c.StopAPI()
	c.etcd.Close()
	from, to = filepath.Join(c.dir, from), filepath.Join(c.dir, to)
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := c.startEtcd("etcd"); err != nil {
		t.Fatal(err)
	}
	if err := c.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// StopAPI kills the API server; its etcd stays.
func (c *Cluster) StopAPI() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.api == nil {
		return
	}
	_ = c.api.Process.Kill()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if c.api.Process.Signal(syscall.Signal(0)) != nil {
			break
		}
	}
	_ = c.log.Close()
	c.api = nil
}

// Stop ends everything and removes the files.
func (c *Cluster) Stop() {
	c.StopAPI()
	if c.etcd != nil {
		c.etcd.Close()
	}
	_ = os.RemoveAll(c.dir)
}

func (c *Cluster) lastLog() string {
	b, _ := os.ReadFile(filepath.Join(c.dir, "apiserver.log"))
	return string(b[max(0, len(b)-2000):])
}
