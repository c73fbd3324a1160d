// Package etcd keeps the cluster's resources in etcd: a client that is a datastore.Store, and a
// server that runs inside this process for those who name no other. One driver serves both, since
// the server is reached as any other, through a Unix socket.
//
// It owns the layout of the keys, the stored form, compare-and-swap, and what must hold between
// resources when they are written (no two enabled pools overlap). It does not own the resources'
// own rules (api/v3) nor what is done with them (node).
//
// The layout is <prefix>/v1/<plural>/[<namespace>/]<name>, each value the resource as JSON
// without resourceVersion, which is etcd's modification revision of the key.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"weft/node/datastore"
)

// Settings of the connection. A connection over which something is asked for or watched, and that
// is silent, is probed after keepaliveTime and given up keepaliveTimeout later: a peer that
// vanished without a word is noticed after 13 s at most. gRPC takes no shorter interval than 10 s.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
	maxReconnect     = 2 * time.Second // gRPC's own default is two minutes
	maxReceive       = 1<<31 - 1       // bytes; a page of a list is never refused
	maxRetries       = 10              // of reads, and of what the server says it did not begin
)

// Store is the etcd client. It implements datastore.Store and datastore.Streamer.
type Store struct {
	cfg  Config
	keys layout

	// connect is held while a client is made: a login speaks to the server.
	connect chan struct{}
	commits commits
	recent  recent
	mu      sync.Mutex
	client  *clientv3.Client
	closed  bool
}

var (
	_ datastore.Store    = (*Store)(nil)
	_ datastore.Streamer = (*Store)(nil)
	_ datastore.Leaser   = (*Store)(nil)
)

// Open checks cfg, reads the files that it names, and returns the Store. It does not contact the
// server: a node starts before its store does. The first call that needs the server says what is
// wrong with it; Ping is such a call.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("etcd configuration: %w", err)
	}
	cfg.defaults()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := cfg.password(); err != nil {
		return nil, fmt.Errorf("etcd configuration: %w", err)
	}
	if _, err := cfg.tlsConfig(); err != nil {
		return nil, fmt.Errorf("etcd configuration: %w", err)
	}
	return &Store{cfg: cfg, keys: newLayout(cfg.Prefix), connect: make(chan struct{}, 1)}, nil
}

// Ping asks the server for one key and tells why it could not.
func (s *Store) Ping(ctx context.Context) error {
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Get(ctx, s.keys.root(), clientv3.WithKeysOnly())
		return err
	})
	if err != nil {
		return fmt.Errorf("reach datastore: %w", err)
	}
	return nil
}

// Close ends the connection and every call and watch under way.
func (s *Store) Close() error {
	s.mu.Lock()
	c := s.client
	s.client, s.closed = nil, true
	s.mu.Unlock()
	if c == nil {
		s.commits.close()
		return nil
	}
	err := c.Close()
	s.commits.close()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}

// conn returns the client, made at the first call that needs it.
func (s *Store) conn(ctx context.Context) (*clientv3.Client, error) {
	select {
	case s.connect <- struct{}{}:
		defer func() { <-s.connect }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	c, closed := s.client, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, errClosed
	case c != nil:
		return c, nil
	}
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close() // lost a race with Close
		return nil, errClosed
	}
	s.client = c
	return c, nil
}

var errClosed = errors.New("the store is closed")

func (s *Store) dial(ctx context.Context) (*clientv3.Client, error) {
	tlsConfig, err := s.cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	password, err := s.cfg.password()
	if err != nil {
		return nil, err
	}
	// The client's own context outlives this call; only a login is bounded by it.
	timeout := s.cfg.DialTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(d), time.Millisecond))
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            s.cfg.Endpoints,
		DialTimeout:          timeout,
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		MaxCallSendMsgSize:   2 * maxObject,
		MaxCallRecvMsgSize:   maxReceive,
		TLS:                  tlsConfig,
		Username:             s.cfg.Username,
		Password:             password,
		Logger:               newZap(s.cfg.Logger),
		MaxUnaryRetries:      maxRetries,
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(failFast, s.observe),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)), // for the watch, which is not the etcd client's
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
				MinConnectTimeout: max(s.cfg.DialTimeout, time.Second),
			}),
		},
	})
}

// await waits until there is a connection, DialTimeout at most. Without one the call that follows
// fails with the reason.
func (s *Store) await(ctx context.Context, c *clientv3.Client) {
	conn := c.ActiveConnection()
	if conn.GetState() == connectivity.Ready {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// failFast undoes the etcd client's choice to wait for a connection until the call's deadline,
// which is then all that the error tells.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return next(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// observe tells of a request that goes out, a repeated one again.
func (s *Store) observe(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if s.cfg.Observe != nil {
		s.cfg.Observe(path.Base(method))
	}
	return next(ctx, method, req, reply, cc, opts...)
}

// do makes one call within RequestTimeout and says in our terms why it failed.
func (s *Store) do(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	call, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	c, err := s.conn(call)
	if err == nil {
		s.await(call, c)
		err = f(call, c)
	}
	return s.explain(ctx, err)
}

// explain turns what etcd and gRPC answer into this project's errors, with the endpoints.
func (s *Store) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	at := "etcd at " + strings.Join(s.cfg.Endpoints, ",")
	msg := status.Convert(err).Message()
	var etcdErr rpctypes.EtcdError
	if errors.As(rpctypes.Error(err), &etcdErr) {
		msg = strings.TrimPrefix(etcdErr.Error(), "etcdserver: ")
	}
	// gRPC wraps the reason of a failed connection in words for programmers.
	if _, reason, ok := strings.Cut(msg, "Error while dialing: "); ok {
		msg = strings.TrimSuffix(reason, `"`)
	}
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(rpctypes.Error(err), t) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, errClosed), errors.Is(err, datastore.ErrUnavailable):
		return err
	case errors.Is(err, datastore.ErrCompacted), errors.Is(err, datastore.ErrInvalid):
		return fmt.Errorf("%s: %w", at, err)
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%s: %w", at, ctx.Err())
	case is(rpctypes.ErrCompacted, rpctypes.ErrFutureRev):
		return fmt.Errorf("%s: %s: %w", at, msg, datastore.ErrCompacted)
	case is(rpctypes.ErrNoSpace):
		return fmt.Errorf("%s: its space quota is used up, it takes no more writes: raise the quota, or compact, "+
			"defragment and disarm its alarm: %w", at, datastore.ErrUnavailable)
	case is(rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%s: larger than this server takes: %w", at, datastore.ErrInvalid)
	case is(rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken, rpctypes.ErrPermissionDenied,
		rpctypes.ErrAuthOldRevision, rpctypes.ErrUserNotFound):
		return fmt.Errorf("%s refuses user %q: %s: check the user's name, password and roles", at, s.cfg.Username, msg)
	}
	switch c := status.Code(err); {
	case errors.Is(err, context.DeadlineExceeded), c == codes.DeadlineExceeded:
		return fmt.Errorf("%s did not answer in time (%s): %w", at, msg, datastore.ErrUnavailable)
	case c == codes.PermissionDenied, c == codes.Unauthenticated:
		return fmt.Errorf("%s refuses user %q: %s", at, s.cfg.Username, msg)
	}
	return fmt.Errorf("%s: %s: %w", at, msg, datastore.ErrUnavailable)
}
