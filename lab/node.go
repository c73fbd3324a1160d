package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stopSignals are the signals with which a node can be stopped.
var stopSignals = []string{"TERM", "KILL", "INT", "QUIT", "ABRT"}

// ParseSignal reads the name of a signal that ends a process: TERM, SIGKILL and so on.
func ParseSignal(name string) (unix.Signal, error) {
	short := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if !slices.Contains(stopSignals, short) {
		return 0, fmt.Errorf("signal %q: want %s", name, strings.Join(stopSignals, ", "))
	}
	return unix.SignalNum("SIG" + short), nil
}

// process finds a node, or the store, by name.
func (l *Lab) process(s state, name string) (Process, error) {
	p := Compile(s.Config, l.dir)
	var names []string
	for _, r := range p.Processes {
		if r.Name == name {
			return r, nil
		}
		names = append(names, r.Name)
	}
	return Process{}, fmt.Errorf("lab %s has no node %q: it has %s", l.name, name, strings.Join(names, ", "))
}

// node finds a node by name.
func (l *Lab) node(s state, name string) (Process, error) {
	p, err := l.process(s, name)
	if err == nil && !p.Own {
		return p, fmt.Errorf("lab %s: %s is no node", l.name, name)
	}
	return p, err
}

// processRecord reads the record of a process. Its absence means that it never started.
func (l *Lab) processRecord(name string) (procRecord, error) {
	r := procRecord{Name: name}
	err := readJSON(procPath(l.dir, name), &r)
	return r, notExist(err)
}

// Stop sends a node (or "store") a signal and waits until its process is gone. It tells whether
// the process was running. The node's namespaces and what the kernel holds in them stay.
func (l *Lab) Stop(ctx context.Context, name string, sig unix.Signal) (bool, error) {
	k, s, err := l.lockShared(ctx)
	if err != nil {
		return false, err
	}
	defer k.release()
	p, err := l.process(s, name)
	if err != nil {
		return false, err
	}
	one, err := l.lockOne(ctx, p.Name)
	if err != nil {
		return false, err
	}
	defer one.release()
	r, err := l.processRecord(p.Name)
	if err != nil || !r.alive() {
		return false, err
	}
	if err := r.signal(sig); err != nil {
		return true, fmt.Errorf("stop %s: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, StopTimeout)
	defer cancel()
	if err := r.waitGone(ctx); err != nil {
		return true, fmt.Errorf("stop %s: %w; try --signal KILL", p.Name, err)
	}
	return true, nil
}

// runningNodes returns the nodes whose process runs.
func (l *Lab) runningNodes(s state) ([]string, error) {
	var out []string
	for _, n := range s.Config.Nodes {
		r, err := l.processRecord(n.Name)
		if err != nil {
			return nil, err
		}
		if r.alive() {
			out = append(out, n.Name)
		}
	}
	return out, nil
}

// Start starts a node (or "store") that was stopped and returns when it is ready; after the
// store, when the running nodes have found it again. It tells whether it had to. Releases of pods that were removed meanwhile are made up for.
func (l *Lab) Start(ctx context.Context, name string) (bool, error) {
	k, s, err := l.lockShared(ctx)
	if err != nil {
		return false, err
	}
	defer k.release()
	p, err := l.process(s, name)
	if err != nil {
		return false, err
	}
	one, err := l.lockOne(ctx, p.Name)
	if err != nil {
		return false, err
	}
	defer one.release()
	r, err := l.processRecord(p.Name)
	if err != nil || r.alive() {
		return false, err
	}
	if _, err = l.startProcess(p, s.ID); err != nil {
		return true, err
	}
	if !p.Own {
		if err := l.waitStore(ctx); err != nil {
			return true, err
		}
		running, err := l.runningNodes(s)
		if err != nil {
			return true, err
		}
		return true, l.waitNodes(ctx, running) // they come back to the store by themselves
	}
	if err := l.waitNodes(ctx, []string{p.Name}); err != nil {
		return true, err
	}
	return true, l.releaseOwed(ctx, p)
}
