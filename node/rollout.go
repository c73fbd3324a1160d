package node

import (
	"maps"
	"time"

	"weft/model"
	"weft/model/topology"
)

// lateAfter is how long a node that is able to encrypt may go on announcing that it sends in clear: more
// than it takes a change of settings to get around, so that only who is not running is late.
const lateAfter = 10 * time.Second

// rollout is what a node remembers of how far encryption has come, over restarts. The zero value: it is
// off. It is a value: next returns another one.
type rollout struct {
	Since time.Time                    `json:"since"` // when encryption was switched on, as this node learnt
	Over  bool                         `json:"over"`  // see model.EncryptionState
	Seen  map[model.NodeName]bool      `json:"seen,omitempty"`
	Hosts map[model.NodeName]bool      `json:"hosts,omitempty"`
	clear map[model.NodeName]time.Time // since when nodes that should not send in clear say that they may
	late  map[model.NodeName]bool
}

// next is what follows from a run that made the kernel as v says, compiled from s, at a moment; settled
// tells that nothing of it failed. When grace has passed since encryption was switched on, the rollout is over,
// whoever is not ready: what cannot be encrypted is not sent.
func (r rollout) next(s *model.Snapshot, v *topology.View, settled bool, now time.Time, grace time.Duration) rollout {
	if !s.Encryption.Any() {
		return rollout{}
	}
	next := rollout{Since: r.Since, Over: r.Over, Seen: r.Seen}
	if next.Since.IsZero() || next.Since.After(now) {
		next.Since = now
	}
	next.Over = next.Over || now.Sub(next.Since) >= grace || settled && topology.RolledOut(s)
	if s.Encryption.Host {
		next.Hosts = r.Hosts
	}
	if settled {
		next.Seen = withAll(r.Seen, v.Encrypted)
		next.Hosts = withAll(next.Hosts, encryptedHosts(v))
	}
	self := s.Nodes[s.Self]
	if self == nil || self.Tunnels == nil || !self.Tunnels.EncryptedOnly {
		return next
	}
	next.clear, next.late = map[model.NodeName]time.Time{}, map[model.NodeName]bool{}
	for name, n := range s.Nodes {
		if name == s.Self || !next.Over && !next.Seen[name] || !topology.SendsClear(n) {
			continue
		}
		since, ok := r.clear[name]
		switch {
		case !ok && r.Over: // it begins with it when it is over
			next.late[name] = true
			continue
		case !ok:
			since = now
		}
		next.clear[name] = since
		if now.Sub(since) >= lateAfter {
			next.late[name] = true
		}
	}
	return next
}

// encryptedHosts are the nodes whose own addresses are reached in cipher text, as far as they are ready for it.
func encryptedHosts(v *topology.View) map[model.NodeName]bool {
	nodes := map[model.NodeName]bool{}
	for i := range v.Hosts {
		if p := &v.Hosts[i]; p.Reach == topology.WireGuard && !p.Unready {
			nodes[p.Node] = true
		}
	}
	return nodes
}

// withAll returns a with all of b; a itself where that changes nothing.
func withAll(a, b map[model.NodeName]bool) map[model.NodeName]bool {
	for n := range b {
		if !a[n] {
			c := make(map[model.NodeName]bool, len(a)+len(b))
			maps.Copy(c, a)
			maps.Copy(c, b)
			return c
		}
	}
	return a
}

// wait is how long it takes until next may say something else although nothing happened; 0: for ever.
func (r rollout) wait(now time.Time, grace time.Duration) time.Duration {
	var at time.Time
	soonest := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if !r.Since.IsZero() && !r.Over {
		soonest(r.Since.Add(grace))
	}
	for _, since := range r.clear {
		soonest(since.Add(lateAfter))
	}
	if at.IsZero() {
		return 0
	}
	return at.Sub(now)
}

// state is what the compilers are told.
func (r rollout) state() model.EncryptionState {
	return model.EncryptionState{Over: r.Over, Seen: r.Seen, Hosts: r.Hosts, Refused: r.late}
}

// same tells whether the compilers would be told the same.
func (r rollout) same(o rollout) bool {
	return r.Over == o.Over && maps.Equal(r.Seen, o.Seen) && maps.Equal(r.Hosts, o.Hosts) && maps.Equal(r.late, o.late)
}

// lasting tells whether two have the same to remember over a restart.
func (r rollout) lasting(o rollout) bool {
	return r.Since.Equal(o.Since) && r.Over == o.Over && maps.Equal(r.Seen, o.Seen) && maps.Equal(r.Hosts, o.Hosts)
}
