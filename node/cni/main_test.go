package cni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model/topology"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
	"weft/node/ipam"
	"weft/routing"
	"weft/routing/fib"
)

// nodeVariable holds the testNode that this binary is to be, instead of running tests.
const nodeVariable = "WEFT_CNI_TEST_NODE"

func TestMain(m *testing.M) {
	if s := os.Getenv(nodeVariable); s != "" {
		var n testNode
		err := json.Unmarshal([]byte(s), &n)
		if err == nil {
			err = n.run()
		}
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// testNode is a node reduced to what CNI needs: the real store client, allocator, route compiler
// and route driver around a Server, in the network namespace that the process was started in.
type testNode struct {
	Dir    string // journal and socket
	Store  string // etcd endpoint
	DieAt  string // step at which the process kills itself
	FailAt string // step that fails
	// FollowMTU makes the node want the MTU that the file "mtu" in Dir says, instead of 1450.
	FollowMTU bool
	// Derived is that of KeeperOptions.
	Derived bool
}

const testNodeName = "n-1"

func (n *testNode) socket() string { return filepath.Join(n.Dir, "cni.sock") }

// step dies or fails where it is told to, once.
func (n *testNode) step(step string) error {
	switch step {
	case n.DieAt:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case n.FailAt:
		return fmt.Errorf("told to fail here")
	}
	return nil
}

// ready reports what the file "not-ready" says.
func (n *testNode) ready() error {
	b, err := os.ReadFile(filepath.Join(n.Dir, "not-ready"))
	if err != nil {
		return nil
	}
	why := strings.TrimSpace(string(b))
	if rest, ok := strings.CutPrefix(why, "limited: "); ok {
		return fmt.Errorf("%s: %w", rest, ErrLimited)
	}
	return fmt.Errorf("%s", why)
}

// mtu is what pods are to have.
func (n *testNode) mtu() int {
	if n.FollowMTU {
		if b, err := os.ReadFile(filepath.Join(n.Dir, "mtu")); err == nil {
			if mtu, err := strconv.Atoi(string(b)); err == nil {
				return mtu
			}
		}
	}
	return 1450
}

// run serves until its standard input ends. It prints "ready", and "done COMMAND MICROSECONDS" for
// each call.
func (n *testNode) run() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{n.Store}, DialTimeout: time.Second, RequestTimeout: 2 * time.Second})
	if err != nil {
		return err
	}
	defer store.Close()
	h, err := kernel.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := kernel.OpenPodLinks()
	if err != nil {
		return err
	}
	defer links.Close()
	reg, err := OpenRegistry(filepath.Join(n.Dir, "endpoints"), log)
	if err != nil {
		return err
	}
	var view *ipam.Cluster // a real node has it from its watch; here the pools do not change
	alloc := ipam.New(store, testNodeName, ipam.Options{Log: log, InUse: reg.InUse,
		View: func(ctx context.Context) (_ *ipam.Cluster, err error) {
			if view == nil {
				view, err = ipam.StoreView(store, testNodeName)(ctx)
			}
			return view, err
		}})
	defer alloc.Close()
	routes := fib.New(h, log)
	var compiler routing.Compiler
	mtus := NewMTUSyncer(reg, links, log)
	mtu := func() (int, error) { return n.mtu(), nil }
	runner := reconcile.NewRunner(func(ctx context.Context, _ bool) error {
		_, mtuErr := mtus.Apply(ctx, n.mtu())
		plan, err := compiler.Compile(&topology.View{}, reg.Endpoints())
		if err != nil {
			return err
		}
		_, err = routes.Apply(ctx, plan)
		return errors.Join(mtuErr, err)
	}, reconcile.RunnerOptions{RetryMin: 10 * time.Millisecond, RetryMax: time.Second, Resync: time.Hour})
	reg.OnChange(runner.Kick)
	if _, err := alloc.Assign(ctx, ipam.Request{HandleID: "warm"}); err == nil { // reads the pools once
		_, _ = alloc.Release(ctx, "warm")
	}
	srv, err := New(Config{Node: testNodeName, Socket: n.socket(), Registry: reg, Links: links, IPAM: FromAllocator(alloc),
		Store: store, MTU: mtu, Ready: n.ready, Apply: runner.Await, Log: log, Step: n.step,
		Observe: func(op, result string, d time.Duration) { fmt.Println("done", op, result, d.Microseconds()) }})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ignoreCanceled(runner.Run(ctx)) })
	g.Go(func() error {
		return ignoreCanceled(kernel.Watch(ctx, "", func(e kernel.Event) {
			if routes.Observe(e) || mtus.Observe(e) {
				runner.Kick()
			}
		}))
	})
	g.Go(func() error {
		for last := n.mtu(); n.FollowMTU && ctx.Err() == nil; time.Sleep(time.Millisecond) {
			if now := n.mtu(); now != last {
				last = now
				runner.Kick()
			}
		}
		return nil
	})
	g.Go(func() error { return srv.Run(ctx) })
	keeper := NewKeeper(srv, KeeperOptions{Derived: n.Derived})
	g.Go(func() error { return ignoreCanceled(keeper.Run(ctx)) })
	g.Go(func() error {
		return ignoreCanceled(datastore.Follow(ctx, store, []string{v3.KindWorkloadEndpoint, v3.KindIPAMBlock}, keeper, datastore.FollowOptions{}))
	})
	g.Go(func() error {
		for ctx.Err() == nil {
			_ = os.WriteFile(filepath.Join(n.Dir, "problems"), []byte(strings.Join(keeper.Problems(), "\n")), 0o600)
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	})
	g.Go(func() error {
		for ctx.Err() == nil {
			if _, err := os.Stat(n.socket()); err == nil {
				fmt.Println("ready")
				break
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		cancel()
	}()
	return g.Wait()
}

func ignoreCanceled(err error) error {
	if err == context.Canceled {
		return nil
	}
	return err
}
