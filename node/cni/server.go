package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/node/cni/rpc"
)

// ErrLimited, wrapped by what Config.Ready returns, says that beside not being able to attach pods
// the node leaves those that are attached with limited connectivity (CNI error code 51).
var ErrLimited = errors.New("attached pods have limited connectivity")

// maxCalls bounds the calls that are handled at once; more wait in the socket's queue.
const maxCalls = 64

// Server answers CNI calls.
type Server struct {
	cfg   Config
	log   *slog.Logger
	boot  string
	locks *locks
	wake  chan struct{} // the releaser has work

	mu     sync.Mutex
	adding map[key]int // ADDs under way
}

// New validates the configuration, and compares the journal with the kernel: from then on
// Registry.Endpoints holds the pods that are attached.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var missing []string
	for name, absent := range map[string]bool{
		"Node": cfg.Node == "", "Socket": cfg.Socket == "", "Registry": cfg.Registry == nil, "Links": cfg.Links == nil,
		"IPAM": cfg.IPAM == nil, "Store": cfg.Store == nil, "MTU": cfg.MTU == nil, "Ready": cfg.Ready == nil, "Apply": cfg.Apply == nil,
	} {
		if absent {
			missing = append(missing, name)
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		return nil, fmt.Errorf("cni server: the configuration lacks %s", strings.Join(missing, ", "))
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("cni server: read the boot ID: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.Log, boot: strings.TrimSpace(string(boot)), locks: newLocks(),
		wake: make(chan struct{}, 1), adding: map[key]int{}}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	if err := s.recoverJournal(ctx); err != nil {
		return s, err
	}
	if cfg.Policy != nil {
		cfg.Registry.onHide = cfg.Policy.Detach
		for _, a := range cfg.Registry.visible() {
			cfg.Policy.Attach(a.forPolicy(), nil)
		}
	}
	return s, nil
}

// recoverJournal compares the journal with the kernel. What earlier runs left half made is removed
// by Run.
func (s *Server) recoverJournal(ctx context.Context) error {
	devices, err := s.cfg.Links.Devices(ctx)
	if err != nil {
		return fmt.Errorf("cni server: list the pods' links: %w", err)
	}
	for _, a := range s.cfg.Registry.adopt(devices) {
		if a.Boot != s.boot {
			// No pod survived the boot: what it had goes the way of a half-made one.
			gone := *a
			gone.State = stateAdding
			if err := s.cfg.Registry.save(gone); err != nil {
				return err
			}
			continue
		}
		// Its pod may still run, in a namespace that we do not see: the addresses stay its own
		// until the runtime says that it is gone.
		s.log.Warn("cni: the link of an attached pod is gone; its addresses stay reserved until DEL or GC",
			"pod", a.id().String(), "container", a.ContainerID, "device", a.Device)
	}
	return nil
}

// Run cleans what earlier runs left half made, listens and answers until ctx ends, and returns when
// every call and every background release has ended.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen for CNI calls on %s: %w", s.cfg.Socket, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.accept(ctx, l) })
	g.Go(func() error { return s.release(ctx) })
	return g.Wait()
}

// caller is the plugin that asks: the network namespace that it sent along, or nil, and whether it has gone.
type caller struct {
	netns *os.File
	gone  func() bool
}

// call answers one request. It never panics: a bug costs one call and is logged with its stack.
func (s *Server) call(ctx context.Context, r *rpc.Request, from caller) (resp rpc.Response) {
	start, steps := time.Now(), &stepTimes{}
	ctx, cancel := context.WithTimeout(ctx, addTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("cni: a call panicked", "command", r.Command, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp = rpc.Response{Error: rpc.Errorf(rpc.CodeInternal, "%s: internal error of weft node, see its log", r.Command)}
		}
		s.report(r, resp.Error, time.Since(start), steps)
	}()
	out, err := s.dispatch(ctx, r, from, steps)
	if err != nil {
		return rpc.Response{Error: asRPC(r.Command, err)}
	}
	return rpc.Response{Result: out}
}

func (s *Server) dispatch(ctx context.Context, r *rpc.Request, from caller, steps *stepTimes) ([]byte, error) {
	switch r.Command {
	case rpc.Add:
		defer s.markAdding(key{r.ContainerID, r.IfName})()
		return s.add(ctx, r, from, steps)
	case rpc.Del:
		return nil, s.del(ctx, r)
	case rpc.Check:
		return nil, s.check(ctx, r, from.netns)
	case rpc.GC:
		return nil, s.gc(ctx, r)
	case rpc.Status:
		return nil, s.status(r)
	}
	return nil, rpc.Errorf(rpc.CodeInvalidEnvironment, "CNI_COMMAND is %q", r.Command)
}

// markAdding notes an ADD for as long as it is under way, so that GC, which knows nothing of it,
// leaves it alone.
func (s *Server) markAdding(k key) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adding[k]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.adding[k]--; s.adding[k] == 0 {
			delete(s.adding, k)
		}
	}
}

func (s *Server) isAdding(k key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.adding[k] > 0
}

func (s *Server) report(r *rpc.Request, e *rpc.Error, took time.Duration, steps *stepTimes) {
	result := "ok"
	if e != nil {
		result = "error"
		if r.Command != rpc.Status {
			s.log.Warn("cni: a call failed", "command", r.Command, "container", r.ContainerID, "code", e.Code, "err", e.Error())
		}
	} else if r.Command == rpc.Add || r.Command == rpc.Del {
		s.log.Info("cni: done", "command", r.Command, "container", r.ContainerID, "steps", steps.String(), "took", took)
	}
	if s.cfg.Observe != nil {
		s.cfg.Observe(r.Command, result, took)
	}
}

// release gives back to the store what DEL, or the end of an earlier run, could not.
func (s *Server) release(ctx context.Context) error {
	for _, a := range s.cfg.Registry.list() {
		if a.State == stateAdding {
			s.log.Info("cni: removing a half-made attachment of an earlier run", "container", a.ContainerID, "pod", a.id().String())
			if err := s.cleanHalfMade(ctx, a); err != nil {
				s.log.Error("cni: a half-made attachment stays; DEL or GC removes it", "container", a.ContainerID, "err", err)
			}
		}
	}
	pause := retryMin
	for {
		if s.releaseOnce(ctx) {
			pause = retryMin
			select {
			case <-s.wake:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, retryMax)
	}
}

func (s *Server) cleanHalfMade(ctx context.Context, a *attachment) error {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return err
	}
	defer unlock()
	now, there := s.cfg.Registry.get(a.key())
	if !there || now.Created != a.Created || now.State != stateAdding {
		return nil
	}
	return s.detach(ctx, *now)
}

// releaseOnce tries all that waits, and tells whether nothing is left.
func (s *Server) releaseOnce(ctx context.Context) (done bool) {
	done = true
	for _, a := range s.cfg.Registry.list() {
		if a.State != stateReleasing || ctx.Err() != nil {
			continue
		}
		if err := s.releaseOne(ctx, a); err != nil {
			done = false
			s.log.Debug("cni: the store does not take back a pod's addresses yet", "container", a.ContainerID, "err", err)
		}
	}
	return done && ctx.Err() == nil
}

func (s *Server) releaseOne(ctx context.Context, a *attachment) error {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return err
	}
	defer unlock()
	now, there := s.cfg.Registry.get(a.key())
	if !there || now.State != stateReleasing {
		return nil
	}
	if err := s.giveBack(ctx, now); err != nil {
		return err
	}
	s.log.Info("cni: the store took back a pod's addresses", "container", a.ContainerID, "pod", a.id().String())
	return s.cfg.Registry.remove(a.key())
}

// wakeReleaser makes the background look again.
func (s *Server) wakeReleaser() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
