package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	v3 "weft/api/v3"
	"weft/encryption/guard"
	"weft/encryption/wireguard"
	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/model/topology"
	"weft/node/accept"
	"weft/node/cni"
	"weft/node/config"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
	"weft/node/datastore/kube"
	"weft/node/flows"
	"weft/node/ipam"
	"weft/policy/offload"
)

// service is one running node: the parts and what they share.
type service struct {
	cfg     *config.Config
	version string
	log     *slog.Logger
	started time.Time

	drivers   []topology.Driver
	ways      map[string]string // of a tunnel driver that has several: which one it takes
	missing   []string          // what this host cannot do, for status
	handle    *kernel.Handle
	store     datastore.Store
	endpoints []string  // of the store, as URLs; none: it is embedded
	host      *kubeHost // nil: the store is not Kubernetes
	// describePod asks Kubernetes what a pod is; nil: the store is not Kubernetes.
	describePod func(ctx context.Context, namespace, name string) (*v3.WorkloadEndpoint, error)
	// writePod writes the addresses of a pod that describePod described; nil: the store is not Kubernetes.
	writePod  func(ctx context.Context, w *v3.WorkloadEndpoint) error
	cluster   *cluster
	underlay  *underlay
	registry  *cni.Registry
	keeper    *cni.Keeper
	links     *kernel.PodLinks
	engine    *engine
	encryptor *encryptor
	rotator   *rotator
	wireguard *wireguard.Driver // nil: this host cannot
	guard     *guard.Guard
	offload   *offloader
	originals *kernel.Originals
	enforcer  *enforcer
	speaker   *speaker
	reporter  *reporter
	book      *accept.Book
	flows     *flows.Recorder
	publisher *publisher
	publish   *reconcile.Runner
	metrics   *metrics
	requests  *prometheus.CounterVec
	ipam      *ipam.Allocator
	monitor   *kernel.Monitor
}

// Run is the node service. It returns when ctx ends, leaving the kernel as it is, or when
// something failed that a retry inside the process cannot mend.
func Run(ctx context.Context, cfg *config.Config, version string, log *slog.Logger) error {
	s := &service{cfg: cfg, version: version, log: log, started: time.Now(), ways: map[string]string{}, requests: newStoreRequests()}
	unlock, err := lockDirs(cfg)
	if err != nil {
		return err
	}
	defer unlock()
	server, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	if server != nil {
		defer func() { _ = server.Close() }()
	}
	defer func() { _ = s.store.Close() }()
	if s.handle, err = kernel.Open(); err != nil {
		return fmt.Errorf("open netlink: %w; weft node needs CAP_NET_ADMIN", err)
	}
	defer s.handle.Close()
	if s.links, err = kernel.OpenPodLinks(); err != nil {
		return fmt.Errorf("open netlink for pod links: %w", err)
	}
	defer s.links.Close()
	// Listening begins before the first read: what changes in between is an event.
	if s.monitor, err = kernel.NewMonitor(ctx, ""); err != nil {
		return fmt.Errorf("listen to kernel events: %w", err)
	}
	defer s.monitor.Close()
	if err := s.build(ctx); err != nil {
		return err
	}
	defer s.ipam.Close()
	log.Info("weft node starts", "node", cfg.NodeName, "version", version, "store", s.storeKind())
	err = s.run(ctx, server)
	if ctx.Err() != nil {
		log.Info("weft node stops; the kernel stays as it is", "node", cfg.NodeName)
		return nil
	}
	return err
}

// run starts every goroutine and waits for all of them.
func (s *service) run(ctx context.Context, server *etcd.Server) error {
	cniServer, err := s.cniServer()
	if err != nil {
		return err
	}
	s.keeper = cni.NewKeeper(cniServer, cni.KeeperOptions{Derived: s.host != nil, Kept: s.metrics.kept})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(ctx) })
	g.Go(func() error {
		return datastore.Follow(ctx, s.store, s.followed(), s.sink(), datastore.FollowOptions{Logger: s.log})
	})
	g.Go(func() error {
		return s.monitor.Run(ctx, func(ev kernel.Event) {
			s.engine.onEvent(ev)
			s.enforcer.onEvent(ev)
		})
	})
	g.Go(func() error { return s.enforcer.Run(ctx) })
	g.Go(func() error { return s.speaker.Run(ctx) })
	g.Go(func() error { return s.reporter.Run(ctx) })
	g.Go(func() error { return s.flows.Run(ctx) })
	g.Go(func() error { return s.engine.runner.Run(ctx) })
	s.engine.collector.started = func() bool { return s.enforcer.ready() == nil }
	g.Go(func() error { return s.engine.collector.run(ctx) })
	g.Go(func() error { return s.encryptor.run(ctx, s.engine.current) })
	g.Go(func() error { return s.rotator.run(ctx) })
	g.Go(func() error { return s.publish.Run(ctx) })
	g.Go(func() error { return cniServer.Run(ctx) })
	g.Go(func() error { return s.keeper.Run(ctx) })
	g.Go(func() error { return s.installCNI(ctx) })
	for _, p := range s.engine.parts {
		if p.watch != nil {
			g.Go(func() error { return p.watch(ctx, s.engine.runner.Kick) })
		}
	}
	if server != nil {
		g.Go(func() error {
			select {
			case <-ctx.Done():
				return nil
			case err := <-server.Err():
				return fmt.Errorf("embedded etcd ended: %w", err)
			}
		})
	}
	return g.Wait()
}

// sink passes what the store says to all that follow it and keeps the store's metrics.
func (s *service) sink() datastore.Sink {
	sinks := []datastore.Sink{s.enforcer, s.cluster, s.speaker, s.reporter, s.keeper}
	if s.host != nil {
		sinks = append(sinks, s.host)
	}
	return &meteredSink{metrics: s.metrics, book: s.book, sinks: sinks}
}

// meteredSink passes on what the store says, but for what it says in conditions.
type meteredSink struct {
	metrics   *metrics
	book      *accept.Book
	unchanged datastore.Unchanged
	sinks     []datastore.Sink // in this order
}

// OnState implements datastore.Sink.
func (m *meteredSink) OnState(st datastore.State, err error) {
	m.metrics.state(st)
	for _, s := range m.sinks {
		s.OnState(st, err)
	}
}

// OnChanges implements datastore.Sink.
func (m *meteredSink) OnChanges(c []datastore.Change) {
	m.metrics.lastEvent.SetToCurrentTime()
	if c = m.unchanged.Drop(c); len(c) == 0 {
		return
	}
	m.book.OnChanges(c)
	for _, s := range m.sinks {
		s.OnChanges(c)
	}
}

// openStore starts the embedded etcd when no store is named, and connects.
func (s *service) openStore(ctx context.Context) (*etcd.Server, error) {
	d := s.cfg.Datastore
	if d.Kind == config.DatastoreKubernetes {
		return nil, s.openKubernetes()
	}
	s.endpoints = d.Endpoints
	conf := etcd.Config{Endpoints: d.Endpoints, CAFile: d.CAFile, CertFile: d.CertFile, KeyFile: d.KeyFile,
		Username: d.User, PasswordFile: d.PasswordFile, Logger: s.log,
		Observe: func(method string) { s.requests.WithLabelValues(method).Inc() }}
	var server *etcd.Server
	var err error
	if d.Embedded() {
		server, err = etcd.StartServer(ctx, etcd.ServerConfig{DataDir: filepath.Join(s.cfg.DataDir, "etcd"),
			Socket: s.cfg.EtcdSocket(), Logger: s.log})
		if err != nil {
			return nil, fmt.Errorf("start the embedded etcd: %w", err)
		}
		conf.Endpoints = []string{server.Endpoint()}
	}
	if s.store, err = etcd.Open(ctx, conf); err != nil {
		if server != nil {
			_ = server.Close()
		}
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return server, nil
}

// openKubernetes connects to the API server.
func (s *service) openKubernetes() error {
	store, err := kube.Open(kube.Config{Kubeconfig: s.cfg.Datastore.Kubeconfig, NodeName: s.cfg.NodeName, Logger: s.log})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	s.store, s.endpoints = store, []string{store.Server()}
	s.describePod, s.writePod = store.DescribePod, store.WritePod
	s.host = &kubeHost{notify: func() { s.publish.Kick() }}
	return nil
}

// followed are the kinds that this node follows in its store.
func (s *service) followed() []string {
	kinds := watchedKinds()
	if s.host != nil {
		kinds = append(kinds, kube.KindHost)
	}
	return kinds
}

// build makes the parts and connects them; nothing runs yet.
func (s *service) build(ctx context.Context) error {
	var err error
	if s.registry, err = cni.OpenRegistry(filepath.Join(s.cfg.DataDir, "endpoints"), s.log); err != nil {
		return fmt.Errorf("open the journal of attached pods: %w", err)
	}
	if s.originals, err = kernel.OpenOriginals(filepath.Join(s.cfg.RunDir, originalsFile)); err != nil {
		return err
	}
	s.book = accept.NewBook(s.cfg.Datastore.Kind == config.DatastoreKubernetes)
	s.metrics = newMetrics(s.version, func() int { return len(s.registry.Endpoints()) }, s.pathCounts)
	s.metrics.registry.MustRegister(s.requests)
	s.underlay = &underlay{
		read:   func(ctx context.Context) (model.Underlay, error) { return kernel.Underlay(ctx, s.handle) },
		notify: func() { s.publish.Kick() }}
	s.cluster = newCluster(model.NodeName(s.cfg.NodeName), s.log, func(aboutSelf bool) {
		s.engine.runner.Kick()
		s.speaker.runner.Kick()
		if aboutSelf {
			s.publish.Kick()
		}
	})
	tunnels := s.tunnelDrivers(ctx)
	s.wireguard = s.wireguardDriver(ctx)
	s.guard = guard.New(s.handle)
	s.offload = &offloader{driver: offload.New(s.handle, s.log)}
	s.drivers = s.served(tunnels)
	s.ipam = ipam.New(s.store, s.cfg.NodeName, ipam.Options{View: s.cluster.ipamView, Fresh: s.freshPools, InUse: s.inUse, Log: s.log})
	s.engine = &engine{log: s.log, cluster: s.cluster, underlay: s.underlay, compiler: topology.NewCompiler(s.drivers),
		endpoints: s.registry.Endpoints, metrics: s.metrics, store: storePorts(s.endpoints),
		announcer: &announcer{kick: func() { s.publish.Kick() }, again: func() { s.engine.runner.Kick() }, now: time.Now}}
	var devices devices
	if s.wireguard != nil {
		devices = s.wireguard
	}
	s.encryptor = newEncryptor(s.cfg, devices, s.log, func() { s.engine.runner.Kick() }, func() { s.publish.Kick() })
	s.engine.encryptor = s.encryptor
	s.rotator = &rotator{log: s.log, store: s.store, cluster: s.cluster, over: s.encryptor.over, period: s.cfg.KeyRotationPeriod}
	s.engine.parts = s.parts(tunnels)
	s.engine.init(s.cfg.Resync)
	s.enforcer = newEnforcer(model.NodeName(s.cfg.NodeName), s.policyBackend(), s.connectionEnder(), s.metrics, s.log, s.cfg.Resync)
	if s.cfg.Datastore.Kind == config.DatastoreKubernetes {
		if err := s.enforcer.feeder.AcceptToHost(); err != nil {
			return err
		}
	}
	s.engine.onLinks, s.engine.onOverlay = s.enforcer.setLinks, s.overlay
	s.speaker = s.newSpeaker()
	s.engine.speaker = s.speaker
	s.reporter = &reporter{self: s.cfg.NodeName, version: s.version, started: s.started, store: s.store, log: s.log,
		peers: s.speaker.sessions, routes: s.bgpRoutes, asked: map[string]*v3.CalicoNodeStatus{}, due: map[string]time.Time{}, poke: make(chan struct{}, 1)}
	s.noteLogger()
	s.flows = flows.New(s.handle, s.log)
	s.enforcer.told, s.enforcer.before = s.flows.Update, s.offload.follow
	s.metrics.registry.MustRegister(&policyCollector{s.enforcer}, &encryptionCollector{s}, &bgpCollector{s.speaker})
	s.publisher = &publisher{self: model.NodeName(s.cfg.NodeName), cfg: s.cfg.Address, log: s.log, store: s.store,
		stores: storeAddresses(ctx, s.endpoints), cluster: s.cluster, underlay: s.underlay,
		host: s.host, announced: s.engine.announcer, relies: s.speaker.handover.take, again: func(d time.Duration) { time.AfterFunc(d, s.publish.Kick) }, encryptor: s.encryptor, tunnels: &nodeTunnel{s.ipam, s.cfg.NodeName}}
	s.publish = reconcile.NewRunner(s.publisher.run, reconcile.RunnerOptions{
		RetryMin: retryMin, RetryMax: retryMax, Resync: s.cfg.Resync})
	s.registry.OnChange(s.engine.runner.Kick)
	return nil
}

// overlay passes on what policy has to know of tunnels.
func (s *service) overlay(o model.Overlay) {
	if s.cfg.TrackTunnels {
		o.Local = nil
	}
	s.enforcer.setOverlay(o)
}

func (s *service) pathCounts() map[string]int {
	out := map[string]int{}
	if p := s.engine.current(); p != nil {
		for _, path := range p.view.Paths {
			out[path.Reach.String()]++
		}
	}
	return out
}

// resolveTimeout bounds the look-up of one name among the store's endpoints.
const resolveTimeout = 3 * time.Second

// storeAddresses returns the IP addresses of the store's endpoints; a name that cannot be looked up
// in time has none.
func storeAddresses(ctx context.Context, endpoints []string) []netip.Addr {
	var out []netip.Addr
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Hostname() == "" {
			continue
		}
		lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
		addrs, _ := net.DefaultResolver.LookupNetIP(lookup, "ip", u.Hostname())
		cancel()
		for _, a := range addrs {
			if a = a.Unmap(); !a.IsLoopback() {
				out = append(out, a)
			}
		}
	}
	return out
}

// lockDirs makes the directories, root-only, and takes the lock of each: two nodes never share a
// path, be it sockets or the journal of attached pods.
func lockDirs(cfg *config.Config) (unlock func(), err error) {
	var locks []*os.File
	unlock = func() {
		for _, f := range locks {
			_ = f.Close()
		}
	}
	for _, d := range []struct{ flag, dir string }{{"run-dir", cfg.RunDir}, {"data-dir", cfg.DataDir}} {
		f, err := lockDir(d.flag, d.dir)
		if err != nil {
			unlock()
			return nil, err
		}
		locks = append(locks, f)
		if cfg.DataDir == cfg.RunDir {
			break
		}
	}
	return unlock, nil
}

// lockName is the name of the file in both directories that a running node service has locked.
const lockName = "node.lock"

// lockWait is how long a process that was killed may take to let go of its lock: until its last thread,
// and what it was about to start, have gone.
const lockWait = time.Second

func lockDir(flag, dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for end := time.Now().Add(lockWait); errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		pid, _ := os.ReadFile(path)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another weft node (pid %s) uses %s; stop it, or name another --%s", strings.TrimSpace(string(pid)), dir, flag)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	_ = f.Truncate(0)
	_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	return f, nil
}
