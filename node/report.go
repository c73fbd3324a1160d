package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/model"
	"weft/model/topology"
	"weft/node/accept"
	"weft/node/config"
	"weft/node/datastore"
	"weft/node/status"
)

// status gathers the node's account of itself.
func (s *service) status(ctx context.Context) *status.Status {
	state, stateErr := s.cluster.inSync()
	st := &status.Status{
		Node: s.cfg.NodeName, Version: s.version, Started: s.started,
		Datastore: status.Datastore{Kind: s.storeKind(), State: string(state), Error: s.awayText(stateErr)},
		Endpoints: len(s.registry.Endpoints()),
	}
	founds, pubErr := s.publisher.account()
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		got, ok := founds[f]
		switch {
		case !ok:
		case st.Address == "":
			st.Address, st.AddressWhy = got.addr.String(), got.why
		default:
			st.Address += ", " + got.addr.String()
		}
	}
	e := s.engine
	e.mu.Lock()
	p := e.plans
	st.LastApplied, st.Repairs = e.applied, e.repairs
	for _, err := range e.errs {
		st.LastErrors = append(st.LastErrors, err)
	}
	e.mu.Unlock()
	slices.SortFunc(st.LastErrors, func(a, b status.Error) int { return b.Time.Compare(a.Time) })
	if pubErr != nil {
		st.LastErrors = append(st.LastErrors, status.Error{Part: "node record", Time: time.Now(), Text: pubErr.Error()})
	}
	policyState, policyProblems := s.enforcer.status()
	st.Policy = policyState
	st.Policy.Offload = s.offload.describe()
	st.Repairs += s.enforcer.repairs()
	st.Problems = slices.Concat(s.cluster.problems(), policyProblems, s.publisher.problems(), s.encryptor.problems(), s.rotator.problems(), s.keeper.Problems(), s.missing)
	slices.Sort(st.Problems)
	st.Problems = slices.Compact(st.Problems) // both read some kinds
	if text, at := s.enforcer.lastError(); text != "" {
		st.LastErrors = append(st.LastErrors, status.Error{Part: "policy", Time: at, Text: text})
	}
	if p != nil {
		fillView(st, p.view, s.drivers, s.ways)
		st.Uplink = uplinkOf(founds, e.underlay)
		st.Encryption = s.encryption(ctx, p)
	}
	st.BGP = s.speaker.describe()
	st.NotAccepted = accept.Told(s.book.Entries())
	st.Checks = s.checks()
	st.Ready = !slices.ContainsFunc(st.Checks, func(c status.Check) bool { return !c.OK })
	return st
}

// awayText says in one sentence why the store is away. Follow's error begins with what it watched
// and from where, which is for the log.
func (s *service) awayText(err error) string {
	if err == nil {
		return ""
	}
	if !errors.Is(err, datastore.ErrUnavailable) {
		return fmt.Sprintf("%s: %v", s.storeKind(), err)
	}
	cause := err.Error()
	if verb, rest, ok := strings.Cut(cause, ": "); ok && (strings.HasPrefix(verb, "watch ") || strings.HasPrefix(verb, "list ")) {
		cause = rest
	}
	cause = strings.TrimSuffix(cause, ": "+datastore.ErrUnavailable.Error())
	return fmt.Sprintf("%s does not answer (%s); the kernel keeps what it has", s.storeKind(), cause)
}

func (s *service) storeKind() string {
	if s.cfg.Datastore.Kind == config.DatastoreKubernetes {
		return "Kubernetes at " + strings.Join(s.endpoints, ", ")
	}
	if s.cfg.Datastore.Embedded() {
		return "embedded etcd"
	}
	return "etcd at " + strings.Join(s.cfg.Datastore.Endpoints, ", ")
}

func uplinkOf(founds map[model.Family]found, u *underlay) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		for _, l := range u.current.Links {
			if slices.Contains(l.Addresses, founds[f].addr) {
				return l.Name
			}
		}
	}
	return ""
}

// fillView writes paths by peer, tunnels and problems into st.
func fillView(st *status.Status, v *topology.View, drivers []topology.Driver, ways map[string]string) {
	st.PodMTU, st.PodMTUWhy = v.PodMTU, v.PodMTUWhy
	st.Problems = append(st.Problems, v.Problems...)
	index := map[model.NodeName]int{}
	for _, p := range v.Peers {
		if i, ok := index[p.Node]; ok {
			st.Peers[i].Address += ", " + p.Address.String()
			continue
		}
		index[p.Node] = len(st.Peers)
		st.Peers = append(st.Peers, status.Peer{Node: string(p.Node), Address: p.Address.String()})
	}
	for _, p := range v.Paths {
		i, ok := index[p.Node]
		if !ok {
			continue
		}
		path := status.Path{Dst: p.Dst.String(), Reach: p.Reach.String(), Device: p.Device, MTU: p.MTU, Why: p.Why}
		if p.Via.IsValid() {
			path.Via = p.Via.String()
		}
		st.Peers[i].Paths = append(st.Peers[i].Paths, path)
	}
	for _, t := range v.Tunnels {
		outer := outerOf(&t, drivers)
		driver := t.Driver
		if way := ways[driver]; way != "" {
			driver += " (" + way + ")"
		}
		st.Tunnels = append(st.Tunnels, status.Tunnel{Device: t.Device, Driver: driver, Outer: outer, MTU: t.MTU, Why: t.Why})
	}
}

// outerOf says for people what a tunnel's packets are on the underlay.
func outerOf(t *topology.Tunnel, drivers []topology.Driver) string {
	switch {
	case t.End.Encap == model.EncapWireGuard:
		return fmt.Sprintf("UDP %d, key epoch %d", t.Port, t.End.Epoch)
	case t.Port > 0:
		return fmt.Sprintf("UDP %d, VNI %d", t.Port, t.VNI)
	}
	for _, d := range drivers {
		if d.Name == t.Driver {
			return d.Outer
		}
	}
	return ""
}

// checks are the lines of /readyz?verbose, each with its reason.
func (s *service) checks() []status.Check {
	check := func(name string, err error, ok string) status.Check {
		if err != nil {
			return status.Check{Name: name, Reason: err.Error()}
		}
		return status.Check{Name: name, OK: true, Reason: ok}
	}
	state, stateErr := s.cluster.inSync()
	switch {
	case state == datastore.StateInSync:
		stateErr = nil
	case stateErr == nil:
		stateErr = fmt.Errorf("%s: %s", s.storeKind(), state)
	default:
		stateErr = errors.New(s.awayText(stateErr))
	}
	out := []status.Check{check("datastore", stateErr, s.storeKind()+" is in sync")}

	_, pubErr := s.publisher.account()
	if pubErr == nil && s.cluster.ownRecord() == nil {
		pubErr = fmt.Errorf("the Node record of %s is not in the store yet", s.cfg.NodeName)
	}
	out = append(out, check("node-record", pubErr, "published"))

	if !s.enforcer.backend.none() {
		policyErr := s.enforcer.ready()
		if text, _ := s.enforcer.lastError(); policyErr == nil && text != "" {
			policyErr = errors.New(text)
		}
		out = append(out, check("policy", policyErr, "enforced"))
	}

	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range append([]string{"underlay", "topology"}, partNames(e.parts)...) {
		var err error
		if last, ok := e.errs[name]; ok {
			err = fmt.Errorf("%s", last.Text)
		} else if e.plans == nil {
			err = fmt.Errorf("nothing has been applied yet")
		}
		if strings.HasSuffix(name, removal) && err == nil {
			continue // of interest only when it fails
		}
		out = append(out, check(name, err, "as wanted"))
	}
	return out
}

func partNames(parts []part) []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// ready tells CNI whether pods can be attached now; if not, why.
func (s *service) ready() error {
	state, err := s.cluster.inSync()
	if state != datastore.StateInSync {
		if err == nil {
			return fmt.Errorf("the node has not read all of %s yet (%s)", s.storeKind(), state)
		}
		return errors.New(s.awayText(err))
	}
	if s.engine.current() == nil {
		if _, err := s.publisher.account(); err != nil {
			return fmt.Errorf("the node has not programmed the kernel yet: %w", err)
		}
		return fmt.Errorf("the node has not programmed the kernel yet; see weft status")
	}
	return s.enforcer.ready()
}

// podMTU is the MTU for new pods in bytes.
func (s *service) podMTU() (int, error) {
	p := s.engine.current()
	if p == nil || p.view.PodMTU <= 0 {
		return 0, fmt.Errorf("the MTU of pods is not known yet: no interface of this host carries the node address")
	}
	return p.view.PodMTU, nil
}
