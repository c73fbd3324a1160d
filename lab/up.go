package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/internal/kernel"
)

// ReadyTimeout is how long the nodes may take to become ready.
const ReadyTimeout = 60 * time.Second

// errInterrupted is what a test's hook returns to stop half way: nothing is cleaned up after it.
var errInterrupted = errors.New("interrupted by a test")

// Up builds the lab and returns when every node is ready. When that fails, what was made is removed
// again, unless keep is set. The lab's name replaces the config's.
func (l *Lab) Up(ctx context.Context, c Config, keep bool) error {
	c, err := c.Rename(l.name)
	if err != nil {
		return err
	}
	if err := checkSocketPaths(c, l.dir); err != nil {
		return err
	}
	k, err := l.lockAlone(ctx)
	if err != nil {
		return err
	}
	defer k.release()
	plan := Compile(c, l.dir)
	if err := l.checkFree(plan); err != nil {
		return err
	}
	start := time.Now()
	err = l.build(ctx, plan, c)
	if err == nil {
		l.say("lab %s: %s ready after %.1f s; reach its store with: eval \"$(weft lab env%s)\"",
			l.name, countNodes(len(c.Nodes)), time.Since(start).Seconds(), l.nameFlag())
		return nil
	}
	err = fmt.Errorf("bring up lab %s: %w", l.name, err)
	if keep || errors.Is(err, errInterrupted) {
		return err
	}
	// The caller's context may be the reason: cleaning up must not depend on it.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), ReadyTimeout)
	defer cancel()
	_, downErr := l.remove(clean)
	return errors.Join(err, downErr)
}

func countNodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// checkFree refuses to build over anything that exists.
func (l *Lab) checkFree(p Plan) error {
	var s state
	err := readJSON(statePath(l.dir), &s)
	switch {
	case err == nil && s.Up:
		return fmt.Errorf("lab %s is up already: take it down with weft lab down%s, or choose another --name", l.name, l.nameFlag())
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("lab %s is half up, an earlier weft lab up did not end well: remove it with weft lab down%s", l.name, l.nameFlag())
	}
	for _, n := range p.Namespaces {
		_, err := os.Lstat(kernel.NetnsPath(n.Name))
		if err == nil {
			return fmt.Errorf("network namespace %s exists already and is not of this lab: remove it with ip netns del %s, or choose another --name", n.Name, n.Name)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for network namespace %s: %w", n.Name, err)
		}
	}
	return nil
}

// checkSocketPaths keeps the longest socket path within the kernel's sun_path (108 bytes, unix(7)).
func checkSocketPaths(c Config, dir string) error {
	for _, n := range c.Nodes {
		if path := filepath.Join(runDir(nodeDir(dir, n.Name)), "etcd.sock.lock"); len(path) > 107 {
			return fmt.Errorf("node %s: the path of its sockets, %s, is too long: shorten the lab's or the node's name", n.Name, path)
		}
	}
	return nil
}

// build makes the plan real, in its order.
func (l *Lab) build(ctx context.Context, p Plan, c Config) error {
	s := state{Version: stateVersion, ID: randomHex(8), Config: c, Created: time.Now()}
	if err := l.record(p, s); err != nil {
		return err
	}
	start := time.Now()
	if err := l.makeNamespaces(ctx, p.Namespaces); err != nil {
		return err
	}
	// The store needs nothing of the underlay and takes longest to start.
	for _, r := range p.Processes {
		if !r.Own {
			if err := l.launch(ctx, r, s.ID); err != nil {
				return err
			}
		}
	}
	if err := l.makeUnderlay(ctx, p); err != nil {
		return err
	}
	l.say("underlay made in %d ms", time.Since(start).Milliseconds())
	if len(p.Processes) > 0 {
		if err := l.waitStore(ctx); err != nil {
			return err
		}
		l.say("store answers on %s", l.StoreEndpoint())
	}
	var nodes []string
	for _, r := range p.Processes {
		if r.Own {
			if err := l.launch(ctx, r, s.ID); err != nil {
				return err
			}
			nodes = append(nodes, r.Name)
		}
	}
	if err := l.waitNodes(ctx, nodes); err != nil {
		return err
	}
	s.Up = true
	return writeJSON(statePath(l.dir), s)
}

// record writes down what is going to be made, before any of it is.
func (l *Lab) record(p Plan, s state) error {
	for _, d := range []string{markDir(l.dir), filepath.Dir(procPath(l.dir, "")), podsDir(l.dir), filepath.Join(l.dir, ".locks")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make the lab's directory: %w", err)
		}
		if err := l.fault("directory " + d); err != nil {
			return err
		}
	}
	for _, n := range p.Namespaces {
		if err := mark(l.dir, n.Name); err != nil {
			return err
		}
	}
	if err := l.fault("marks"); err != nil {
		return err
	}
	if err := writeJSON(statePath(l.dir), s); err != nil {
		return err
	}
	return l.fault("state")
}

// mark writes down that the network namespace called name is ours.
func mark(dir, name string) error {
	if err := os.WriteFile(filepath.Join(markDir(dir), name), nil, 0o600); err != nil {
		return fmt.Errorf("note network namespace %s: %w", name, err)
	}
	return nil
}

func unmark(dir, name string) error {
	if err := os.Remove(filepath.Join(markDir(dir), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget network namespace %s: %w", name, err)
	}
	return nil
}

// makeNamespaces creates the namespaces. The directory of labs stays locked until they are there,
// so that another lab going down does not take the mount of /run/netns away meanwhile.
func (l *Lab) makeNamespaces(ctx context.Context, all []Namespace) error {
	k, err := l.lockRoot(ctx)
	if err != nil {
		return err
	}
	defer k.release()
	if err := l.shareNetnsDir(); err != nil {
		return fmt.Errorf("prepare %s: %w", kernel.NetnsDir, err)
	}
	if err := l.fault("shared " + kernel.NetnsDir); err != nil {
		return err
	}
	for _, n := range all {
		if err := checkContext(ctx); err != nil {
			return err
		}
		if err := makeNamespace(ctx, n); err != nil {
			return err
		}
		if err := l.fault("namespace " + n.Name); err != nil {
			return err
		}
	}
	return nil
}

func makeNamespace(ctx context.Context, n Namespace) error {
	path, err := kernel.NewNamedNetns(n.Name)
	if err != nil {
		return err
	}
	err = kernel.Do(path, func() error {
		for _, s := range n.Sysctls {
			if err := kernel.SetSysctl(s.Path, s.Value); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		h, err := kernel.Open()
		if err != nil {
			return err
		}
		defer h.Close()
		return h.LinkSetUp(ctx, "lo")
	})
	if err != nil {
		return fmt.Errorf("prepare network namespace %s: %w", n.Name, err)
	}
	return nil
}

func (l *Lab) makeUnderlay(ctx context.Context, p Plan) error {
	for _, b := range p.Bridges {
		err := inNamespace(b.Namespace, func(h *kernel.Handle) error { return h.AddBridge(b.Name, b.MTU) })
		if err == nil {
			err = l.fault("bridge " + b.Name)
		}
		if err != nil {
			return err
		}
	}
	for _, w := range p.Wires {
		if err := checkContext(ctx); err != nil {
			return err
		}
		if err := makeWire(w); err != nil {
			return err
		}
		if err := l.fault("wire " + w.Name); err != nil {
			return err
		}
	}
	for _, r := range p.Routes {
		err := inNamespace(r.Namespace, func(h *kernel.Handle) error { return h.AddUnderlayRoute(r.Dst, r.Via, r.Device) })
		if err != nil {
			return err
		}
	}
	return l.fault("routes")
}

func makeWire(w Wire) error {
	err := kernel.AddWire(kernel.WireEnd{Namespace: w.Namespace, Name: w.Name, Bridge: w.Bridge},
		kernel.WireEnd{Namespace: w.Peer, Name: w.PeerName}, w.MTU)
	if err != nil {
		return err
	}
	return inNamespace(w.Peer, func(h *kernel.Handle) error {
		for _, a := range w.Addresses {
			if err := h.AddAddress(w.PeerName, a); err != nil {
				return err
			}
		}
		return nil
	})
}

func inNamespace(name string, f func(*kernel.Handle) error) error {
	h, err := kernel.OpenAt(kernel.NetnsPath(name))
	if err != nil {
		return err
	}
	defer h.Close()
	if err := f(h); err != nil {
		return fmt.Errorf("in network namespace %s: %w", name, err)
	}
	return nil
}

func (l *Lab) launch(ctx context.Context, p Process, id string) error {
	if err := checkContext(ctx); err != nil {
		return err
	}
	if err := l.fault("before " + p.Name); err != nil {
		return err
	}
	if _, err := l.startProcess(p, id); err != nil {
		return err
	}
	return l.fault("recorded " + p.Name)
}

// waitNodes waits until every node is ready. The first that fails ends the wait.
func (l *Lab) waitNodes(ctx context.Context, nodes []string) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for _, n := range nodes {
		g.Go(func() error {
			if err := l.waitReady(ctx, n); err != nil {
				return err
			}
			l.say("%s ready after %.1f s", n, time.Since(start).Seconds())
			return nil
		})
	}
	return g.Wait()
}
