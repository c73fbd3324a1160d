package lab

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Status is what `weft lab status -o json` prints.
type Status struct {
	Name    string       `json:"name"`
	Up      bool         `json:"up"` // every node was ready once
	Created time.Time    `json:"created"`
	Store   StoreStatus  `json:"store"`
	Nodes   []NodeStatus `json:"nodes"`
}

// StoreStatus is the state of the lab's store.
type StoreStatus struct {
	Endpoint string `json:"endpoint"`
	PID      int    `json:"pid"` // 0: not running
	State    string `json:"state"`
}

// NodeStatus is the state of a node.
type NodeStatus struct {
	Name      string      `json:"name"`
	PID       int         `json:"pid"`   // 0: not running
	State     string      `json:"state"` // running, stopped
	Ready     bool        `json:"ready"`
	Why       string      `json:"why,omitempty"` // why it is not ready
	Subnet    string      `json:"subnet"`
	Addresses []string    `json:"addresses"`
	Netns     string      `json:"netns"`
	Log       string      `json:"log"` // file
	Pods      []PodStatus `json:"pods"`
}

// PodStatus is one pod of a node.
type PodStatus struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	Netns       string            `json:"netns"`
	ContainerID string            `json:"containerID"`
	Addresses   []string          `json:"addresses"`
	Labels      map[string]string `json:"labels,omitempty"`
}

const (
	running = "running"
	stopped = "stopped"
)

// Status tells how the lab is. A lab that is not up is an error.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	s, err := l.readState()
	if err != nil {
		return Status{}, err
	}
	pods, err := readPods(l.dir, false)
	if err != nil {
		return Status{}, err
	}
	out := Status{Name: l.name, Up: s.Up, Created: s.Created, Nodes: make([]NodeStatus, len(s.Config.Nodes))}
	out.Store = StoreStatus{Endpoint: l.StoreEndpoint()}
	if out.Store.PID, out.Store.State, err = l.processState(storeName); err != nil {
		return Status{}, err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(s.Config.Nodes))
	for i, n := range s.Config.Nodes {
		wg.Go(func() { out.Nodes[i], errs[i] = l.nodeStatus(ctx, s.Config, n, pods) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return Status{}, err
		}
	}
	return out, nil
}

func (l *Lab) processState(name string) (int, string, error) {
	r, err := l.processRecord(name)
	if err != nil || !r.alive() {
		return 0, stopped, err
	}
	return r.PID, running, nil
}

func (l *Lab) nodeStatus(ctx context.Context, c Config, n Node, pods []podRecord) (NodeStatus, error) {
	out := NodeStatus{
		Name: n.Name, Subnet: n.Subnet, Netns: l.Netns(n.Name), Log: logPath(nodeDir(l.dir, n.Name)),
		Addresses: []string{}, Pods: []PodStatus{},
	}
	for _, a := range n.addresses(c.subnet(n.Subnet)) {
		out.Addresses = append(out.Addresses, a.String())
	}
	for _, p := range pods {
		if p.Node == n.Name {
			out.Pods = append(out.Pods, PodStatus{p.Namespace, p.Name, p.Netns, p.ContainerID, append([]string{}, p.Addresses...), p.Args.Labels})
		}
	}
	var err error
	if out.PID, out.State, err = l.processState(n.Name); err != nil {
		return out, err
	}
	if out.State != running {
		out.Why = "its process is not running: weft lab start" + l.nameFlag() + " " + n.Name
		return out, nil
	}
	if why := l.probe(ctx, n.Name); why != nil {
		out.Why = why.Error()
	}
	out.Ready = out.Why == ""
	return out, nil
}

// WriteTable prints the status for people.
func (s Status) WriteTable(w io.Writer) error {
	state := "up"
	if !s.Up {
		state = "half up: weft lab up did not end, or did not end well"
	}
	store := s.Store.State
	if s.Store.PID != 0 {
		store = fmt.Sprintf("%s, pid %d", store, s.Store.PID)
	}
	fmt.Fprintf(w, "lab %s: %s, store %s (%s)\n\n", s.Name, state, s.Store.Endpoint, store)
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "NODE\tPID\tSTATE\tREADY\tSUBNET\tADDRESSES\tPODS")
	for _, n := range s.Nodes {
		pid, ready := "-", "yes"
		if n.PID != 0 {
			pid = fmt.Sprint(n.PID)
		}
		if !n.Ready {
			ready = "no"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", n.Name, pid, n.State, ready, n.Subnet, orDash(n.Addresses), len(n.Pods))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return s.writeDetails(w)
}

func (s Status) writeDetails(w io.Writer) error {
	pods := 0
	for _, n := range s.Nodes {
		if n.Why != "" {
			fmt.Fprintf(w, "\n%s is not ready: %s\n", n.Name, n.Why)
		}
		pods += len(n.Pods)
	}
	if pods == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "POD\tNODE\tADDRESSES\tNETWORK NAMESPACE")
	for _, n := range s.Nodes {
		for _, p := range n.Pods {
			fmt.Fprintf(t, "%s/%s\t%s\t%s\t%s\n", p.Namespace, p.Name, n.Name, orDash(p.Addresses), p.Netns)
		}
	}
	return t.Flush()
}

func orDash(s []string) string {
	if len(s) == 0 {
		return "-"
	}
	return strings.Join(s, ",")
}
