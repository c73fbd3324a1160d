package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"weft/model"
	"weft/node/cni/rpc"
)

// check compares an attachment with the kernel, the store and what the runtime was told (CNI
// specification 1.1, section 2, CHECK).
func (s *Server) check(ctx context.Context, r *rpc.Request, netns *os.File) error {
	conf, rerr := parseConf(r, s.cfg.Node)
	if rerr != nil {
		return rerr
	}
	unlock, err := s.locks.take(ctx, "container "+r.ContainerID)
	if err != nil {
		return rpc.Errorf(rpc.CodeTryAgain, "another call for container %s is under way: %v", r.ContainerID, err)
	}
	defer unlock()
	a, there := s.cfg.Registry.get(key{r.ContainerID, r.IfName})
	if !there || a.Network != conf.Name {
		return rpc.Errorf(rpc.CodeUnknownContainer, "container %s has no %s in network %s on node %s", r.ContainerID, r.IfName, conf.Name, s.cfg.Node)
	}
	switch {
	case a.State != stateReady:
		return rpc.Errorf(rpc.CodeCheckFailed, "the attachment of container %s is half made or half removed (%s)", r.ContainerID, a.State)
	case a.Superseded:
		return rpc.Errorf(rpc.CodeCheckFailed, "pod %s has a newer sandbox than %s", a.id(), r.ContainerID)
	case netns == nil:
		return rpc.Errorf(rpc.CodeInvalidNetns, "no network namespace came with the request (CNI_NETNS is %q)", r.Netns)
	}
	if err := s.cfg.Links.CheckNamespace(netns); err != nil {
		return rpc.Errorf(rpc.CodeInvalidNetns, "CNI_NETNS is %s: %v", r.Netns, err)
	}
	err = errors.Join(checkPrevious(conf.PrevResult, a), s.cfg.Links.Check(ctx, netns, a.link()), s.checkRecord(ctx, a))
	if err != nil {
		return rpc.Errorf(rpc.CodeCheckFailed, "pod %s: %s", a.id(), strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// checkPrevious compares the result of ADD, as the runtime kept it, with the journal.
func checkPrevious(prev json.RawMessage, a *attachment) error {
	if len(prev) == 0 {
		return nil
	}
	var res struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(prev, &res); err != nil {
		return fmt.Errorf("decode prevResult: %w", err)
	}
	for _, ip := range a.Addresses {
		if !slices.ContainsFunc(res.IPs, func(x struct {
			Address netip.Prefix `json:"address"`
		}) bool {
			return x.Address == model.HostPrefix(ip)
		}) {
			return fmt.Errorf("the runtime's result of ADD lacks the address %s", ip)
		}
	}
	return nil
}

func (s *Server) checkRecord(ctx context.Context, a *attachment) error {
	w, ours, err := s.getRecord(ctx, a)
	switch {
	case err != nil:
		return fmt.Errorf("read record %s: %w", a.Record, err)
	case w == nil:
		return fmt.Errorf("record %s is gone", recordKey(a))
	case !ours:
		return fmt.Errorf("record %s is of container %s", recordKey(a), w.Spec.ContainerID)
	}
	for _, ip := range a.Addresses {
		if !slices.Contains(w.Spec.IPNetworks, model.HostPrefix(ip).String()) {
			return fmt.Errorf("record %s lacks the address %s", recordKey(a), ip)
		}
	}
	return nil
}
