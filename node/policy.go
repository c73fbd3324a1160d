package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/node/flows"
	"weft/node/policies"
	"weft/policy"
	"weft/policy/conntrack"
	policyiptables "weft/policy/iptables"
	policynftables "weft/policy/nftables"
)

// policyBackend lists the drivers of policy: a new one is one line here.
func (s *service) policyBackend() *backend {
	b := newBackend(s.cfg.PolicyDriver, policyFileIn(s.cfg.DataDir), map[string]func() policyDriver{
		policyNFTables: func() policyDriver { return policynftables.New(s.handle, s.log) },
		policyIptables: func() policyDriver { return policyiptables.New(s.handle, s.log, policyiptables.Auto) },
	}, s.log)
	b.adjust = func(_ string, d policyDriver, settings policies.Settings) {
		if t, ok := d.(*policyiptables.Driver); ok {
			t.SetBackend(iptablesBackend(settings.IptablesBackend))
		}
	}
	return b
}

// PolicyDriver is what writes a policy.Program into a network namespace's kernel.
type PolicyDriver interface {
	Apply(context.Context, policy.Update) (reconcile.Result, error)
	Close()
}

// OpenPolicyDriver returns the driver of that name, "nftables" or "iptables", without a node service around it: for who measures
// its rules.
func OpenPolicyDriver(name string, h *kernel.Handle, log *slog.Logger) PolicyDriver {
	if name == policyIptables {
		return policyiptables.New(h, log, policyiptables.Auto)
	}
	return policynftables.New(h, log)
}

// iptablesBackend reads the field of a FelixConfiguration, which is valid, in any case.
func iptablesBackend(text string) policyiptables.Backend {
	for _, b := range []policyiptables.Backend{policyiptables.NFT, policyiptables.Legacy} {
		if strings.EqualFold(text, string(b)) {
			return b
		}
	}
	return policyiptables.Auto
}

// connectionEnder ends connections that policy denies from now on.
func (s *service) connectionEnder() connectionEnder {
	return ender{conntrack.New(s.handle, s.log, conntrack.Options{
		Kick: func() { s.enforcer.cuts.Kick() }, Program: programOf{s}, Flush: s.offload.driver.Flush})}
}

// programOf locks the program that is compiled.
type programOf struct{ *service }

func (p programOf) Lock()   { p.enforcer.running.Lock() }
func (p programOf) Unlock() { p.enforcer.running.Unlock() }

type ender struct{ *conntrack.Cutter }

// Cut implements connectionEnder.
func (e ender) Cut(ctx context.Context) error {
	_, err := e.Cutter.Cut(ctx)
	return err
}

// counters reads what the rules of the driver in force counted.
func (s *service) counters(ctx context.Context) ([]flows.Counter, error) {
	var list []flows.Counter
	inForce := s.enforcer.observed.Load()
	if inForce == nil {
		return nil, errors.New("no policy is enforced yet")
	}
	switch d := (*inForce).(type) {
	case *policynftables.Driver:
		all, err := d.Counters(ctx)
		for _, c := range all {
			list = append(list, flows.Counter{Chain: string(c.Chain), Rules: c.Rules, Tag: c.Tag.String(), Packets: c.Packets, Bytes: c.Bytes})
		}
		return list, err
	case *policyiptables.Driver:
		all, err := d.Counters(ctx)
		for _, c := range all {
			list = append(list, flows.Counter{Chain: string(c.Chain), Rules: c.Rules, Tag: c.Tag.String(), Packets: c.Packets, Bytes: c.Bytes})
		}
		return list, err
	}
	return nil, errors.New("the driver in force counts nothing")
}
