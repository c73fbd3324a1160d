package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// ServerConfig says where the embedded server keeps its data and where it listens.
type ServerConfig struct {
	// DataDir holds everything; it is made with mode 0700. One server at a time uses it.
	DataDir string
	// Socket is the absolute path of the Unix socket, at most 107 bytes. It gets mode 0600; its
	// directory is made with mode 0700 when it is not there.
	Socket string
	// NoFsync leaves writing to the kernel's leisure: what was acknowledged is lost when the
	// machine (not the process) stops. For tests.
	NoFsync bool
	// QuotaBytes bounds the database. Zero: 2 GiB.
	QuotaBytes int64
	// Compaction is how long history is kept for a watch to resume. Zero: 5 min.
	Compaction time.Duration
	// Tick is the clock of the consensus protocol: the start takes 5 to 10 of them, and idle CPU
	// time grows as they get shorter. Zero: 100 ms.
	Tick time.Duration
	// Logger gets the server's warnings, and at Debug all that it says. nil: nothing.
	Logger *slog.Logger
}

func (c *ServerConfig) defaults() error {
	var errs []error
	if !filepath.IsAbs(c.DataDir) {
		errs = append(errs, fmt.Errorf("data dir %q: want an absolute path", c.DataDir))
	}
	if !filepath.IsAbs(c.Socket) {
		errs = append(errs, fmt.Errorf("socket %q: want an absolute path", c.Socket))
	}
	if err := checkSocketPath(c.Socket); err != nil {
		errs = append(errs, err)
	}
	if c.QuotaBytes < 0 || c.Compaction < 0 || c.Tick < 0 {
		errs = append(errs, errors.New("quota, compaction and tick must not be negative"))
	}
	c.DataDir, c.Socket = filepath.Clean(c.DataDir), filepath.Clean(c.Socket)
	if c.QuotaBytes == 0 {
		c.QuotaBytes = 2 << 30
	}
	if c.Compaction == 0 {
		c.Compaction = 5 * time.Minute
	}
	if c.Tick == 0 {
		c.Tick = 100 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

// Server is an etcd of one member within this process. It opens no TCP port, speaks to no peer,
// and serves gRPC only, no HTTP.
type Server struct {
	cfg    ServerConfig
	etcd   *embed.Etcd
	grpc   *grpc.Server
	socket *socket
	lock   *os.File
	tidy   chan struct{} // asks for room to be made

	stop    context.CancelFunc
	wg      sync.WaitGroup
	errc    chan error // at most one error: why the server ended by itself
	fatal   chan error // from etcd's own goroutines
	closing sync.Once
	err     error
}

// StartServer starts the server and returns when it answers. ctx bounds the start only.
func StartServer(ctx context.Context, cfg ServerConfig) (_ *Server, err error) {
	if err := cfg.defaults(); err != nil {
		return nil, fmt.Errorf("embedded etcd configuration: %w", err)
	}
	s := &Server{cfg: cfg, errc: make(chan error, 1), fatal: make(chan error, 1), tidy: make(chan struct{}, 1)}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data dir: %w", err)
	}
	if err := os.Chmod(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data dir private: %w", err)
	}
	if s.lock, err = lockFile(filepath.Join(cfg.DataDir, "lock")); err != nil {
		return nil, fmt.Errorf("data dir %s: %w", cfg.DataDir, err)
	}
	defer func() {
		if err != nil {
			_ = s.lock.Close()
		}
	}()
	if s.socket, err = listen(cfg.Socket); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Socket, err)
	}
	defer func() {
		if err != nil {
			s.socket.close()
		}
	}()
	if err := s.startEtcd(ctx); err != nil {
		return nil, err
	}
	s.serve()
	return s, nil
}

// embedConfig is etcd's own configuration: one member without listeners of etcd's making.
func (s *Server) embedConfig() *embed.Config {
	c := embed.NewConfig()
	c.Name = "weft"
	c.Dir = s.cfg.DataDir
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	c.AdvertiseClientUrls = nil
	// The member has to have a peer URL. Nothing listens there and nothing dials it.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Host: "weft-has-no-peers:0"}}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// The token makes the cluster's id, used at the first start only: clients tell by the id that
	// a store was emptied, although its revisions may look like those they know.
	c.InitialClusterToken = string(uuid.NewUUID())
	c.TickMs = uint(max(s.cfg.Tick.Milliseconds(), 1))
	c.ElectionMs = 5 * c.TickMs
	c.UnsafeNoFsync = s.cfg.NoFsync
	c.AutoCompactionMode = embed.CompactorModePeriodic
	c.AutoCompactionRetention = s.cfg.Compaction.String()
	c.QuotaBackendBytes = s.cfg.QuotaBytes
	c.MaxRequestBytes = maxObject + 64<<10 // room for the key and the guard of a transaction
	c.MaxTxnOps = 128
	// Nobody follows this log: keep little of it in memory.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 5000, 100
	c.WatchProgressNotifyInterval = time.Minute
	c.BootstrapDefragThresholdMegabytes = 64
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(s.cfg.Logger, s.catchFatal()...))
	return c
}

// startEtcd starts etcd and waits until it is ready, or until ctx ends.
func (s *Server) startEtcd(ctx context.Context) error {
	started := make(chan error, 1)
	var settled atomic.Bool // the start has ended, or was given up: whoever comes second sees to it
	go s.runStart(started, &settled)
	// A goroutine of etcd's own may give up while its starter waits for it for ever, or a damaged
	// database may keep that busy: leave it behind. It holds the database open, if anything.
	var err error
	select {
	case err = <-started:
	case err = <-s.fatal:
		if !settled.CompareAndSwap(false, true) {
			err = errors.Join(err, <-started)
		}
	case <-ctx.Done():
		if err = ctx.Err(); !settled.CompareAndSwap(false, true) {
			err = <-started
		}
	}
	if err != nil {
		if s.etcd != nil {
			go s.etcd.Close() // may wait for what has just ended
		}
		return s.explainStart(err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err := <-s.fatal:
		go s.etcd.Close() // may wait for what has just ended
		return s.explainStart(err)
	case <-s.etcd.Server.StopNotify():
		s.etcd.Close()
		return fmt.Errorf("start embedded etcd on data dir %s: it stopped at once", s.cfg.DataDir)
	case <-ctx.Done():
		s.etcd.Close()
		return s.explainStart(ctx.Err())
	}
}

// runStart is embed.StartEtcd in a goroutine that may end within it, by panic or by fatalHook.
// s.etcd is set when started brings nil.
func (s *Server) runStart(started chan<- error, settled *atomic.Bool) {
	err := errors.New("etcd ended its start without saying why")
	var e *embed.Etcd
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("etcd broke down reading it: %v", p)
		}
		if !settled.CompareAndSwap(false, true) {
			if e != nil {
				e.Close()
			}
			return
		}
		select {
		case err = <-s.fatal:
		default:
		}
		s.etcd = e
		started <- err
	}()
	e, err = embed.StartEtcd(s.embedConfig())
}

func (s *Server) explainStart(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("start embedded etcd on data dir %s: not ready in time: %w", s.cfg.DataDir, err)
	}
	return fmt.Errorf("start embedded etcd: data dir %s cannot be used: %w: the data is damaged, or was not written by "+
		"this version; restore a backup of the directory, or move it away to begin with an empty store", s.cfg.DataDir, err)
}

func (s *Server) serve() {
	s.grpc = v3rpc.Server(s.etcd.Server, nil, s.watchQuota,
		grpc.WaitForHandlers(true), // they use the database that is closed next
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	)
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.wg.Go(func() {
		if err := s.grpc.Serve(s.socket.listener); err != nil && ctx.Err() == nil {
			s.report(fmt.Errorf("serve embedded etcd on %s: %w", s.cfg.Socket, err))
		}
	})
	s.wg.Go(func() {
		select {
		case <-ctx.Done():
		case err := <-s.fatal:
			s.report(fmt.Errorf("embedded etcd failed: %w", err))
		case <-s.etcd.Server.StopNotify():
			s.report(errors.New("embedded etcd stopped by itself"))
		}
	})
	s.wg.Go(func() { s.keepRoom(ctx) })
	s.cfg.Logger.Info("embedded etcd serves", "socket", s.cfg.Socket, "data dir", s.cfg.DataDir)
}

// report keeps the first error only.
func (s *Server) report(err error) {
	select {
	case s.errc <- err:
	default:
	}
}

// Endpoint is what to put into Config.Endpoints: "unix:///run/weft/etcd.sock".
func (s *Server) Endpoint() string { return "unix://" + s.cfg.Socket }

// Store opens a Store on this server. Its own Close ends it, before that of the server.
func (s *Server) Store(ctx context.Context) (*Store, error) {
	return Open(ctx, Config{Endpoints: []string{s.Endpoint()}, Logger: s.cfg.Logger})
}

// Err brings an error when the server ends although nobody closed it: the disk is full or
// failing, for instance. The data then is as it was at the last acknowledged write; Close, and
// start again.
func (s *Server) Err() <-chan error { return s.errc }

// closeTimeout bounds the wait for etcd to end; it takes milliseconds unless it has failed.
const closeTimeout = 10 * time.Second

// Close ends all connections and stops the server. Clients that are still connected do not delay
// it; they see the connection break.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.stop()
		s.socket.unlink() // first, so that nobody finds a socket that does not answer
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.grpc.Stop()
			s.etcd.Close()
			s.wg.Wait()
		}()
		select {
		case <-done:
		case <-time.After(closeTimeout):
			s.err = fmt.Errorf("close embedded etcd on data dir %s: not done after %v", s.cfg.DataDir, closeTimeout)
		}
		s.socket.close()
		if s.err == nil { // else it may still write: keep others out until this process ends
			s.err = s.lock.Close()
		}
	})
	return s.err
}

// watchQuota sees the answer to every call: the first that is refused for lack of room asks for it.
func (s *Server) watchQuota(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if isNoSpace(err) {
		select {
		case s.tidy <- struct{}{}:
		default:
		}
	}
	return resp, err
}

// keepRoom makes room whenever a write was refused for lack of it.
func (s *Server) keepRoom(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.tidy:
		}
		s.makeRoom(ctx)
		select { // a store that is full of live data stays so: do not spin
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
		}
	}
}

// makeRoom drops history, gives the freed pages back, and lifts the alarm if that was enough.
func (s *Server) makeRoom(ctx context.Context) {
	log, e := s.cfg.Logger, s.etcd.Server
	before := e.Backend().Size()
	if _, err := e.Compact(ctx, &pb.CompactionRequest{Revision: e.KV().Rev(), Physical: true}); err != nil && !isCompacted(err) {
		log.Error("make room: compact", "err", err)
	}
	if err := e.Backend().Defrag(); err != nil {
		log.Error("make room: defragment", "err", err)
		return
	}
	after := e.Backend().Size()
	if after > s.cfg.QuotaBytes/10*9 {
		log.Error("datastore is full: writes are refused; remove resources or raise the quota",
			"bytes", after, "quota bytes", s.cfg.QuotaBytes)
		return
	}
	lift := &pb.AlarmRequest{MemberID: uint64(e.MemberID()), Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE}
	if _, err := e.Alarm(ctx, lift); err != nil {
		log.Error("make room: lift the alarm", "err", err)
		return
	}
	log.Info("datastore had reached its quota: dropped its history", "bytes before", before, "bytes after", after)
}
