package node

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/model"
	"weft/model/topology"
)

func rolloutSnapshot(enabled bool) *model.Snapshot {
	wg := model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4, Port: 51820}
	ready := func(ends ...model.TunnelEnd) *model.Tunnels {
		return &model.Tunnels{Receives: []model.TunnelEnd{wg}, Sends: ends}
	}
	s := &model.Snapshot{Self: "n1", Encryption: model.EncryptionConfig{Enabled4: enabled}, Nodes: map[model.NodeName]*model.Node{
		"n1": {Name: "n1", Tunnels: ready(wg)}, "n2": {Name: "n2", Tunnels: ready(wg)}, "n3": {Name: "n3", Tunnels: ready(wg, model.TunnelEnd{})}}}
	s.Nodes["n1"].Tunnels.EncryptedOnly = true
	return s
}

// TestRollout goes through a rollout with a node that goes on sending in clear.
func TestRollout(t *testing.T) {
	const grace = time.Minute
	begin := time.Unix(1000, 0)
	s := rolloutSnapshot(true)
	v := &topology.View{Encrypted: map[model.NodeName]bool{"n2": true}}
	var r rollout
	for _, step := range []struct {
		what     string
		after    time.Duration
		enabled  bool
		settled  bool
		seen     map[model.NodeName]bool
		n3       []model.TunnelEnd // what n3 sends by
		over     bool
		seen2    bool
		refused3 bool
		wait     time.Duration
	}{
		{what: "begins", enabled: true, n3: []model.TunnelEnd{{}}, wait: grace},
		{what: "a run that failed sees nobody", after: time.Second, enabled: true, wait: grace - time.Second, n3: []model.TunnelEnd{{}}},
		{what: "n2 is ready", after: 2 * time.Second, enabled: true, settled: true, seen2: true, wait: grace - 2*time.Second, n3: []model.TunnelEnd{{}}},
		{what: "n2 stays seen", after: 3 * time.Second, enabled: true, settled: true, seen: map[model.NodeName]bool{}, seen2: true, wait: grace - 3*time.Second, n3: []model.TunnelEnd{{}}},
		{what: "the grace period is over, and n3 is to stop", after: grace, enabled: true, over: true, seen2: true, wait: lateAfter, n3: []model.TunnelEnd{{}}},
		{what: "n3 is late", after: grace + lateAfter, enabled: true, over: true, seen2: true, refused3: true, n3: []model.TunnelEnd{{}}},
		{what: "n3 stops at last", after: grace + 2*lateAfter, enabled: true, over: true, seen2: true},
		{what: "n3 begins again: nobody waits any more", after: grace + 2*lateAfter + time.Second, enabled: true, over: true, seen2: true, refused3: true, n3: []model.TunnelEnd{{}}},
		{what: "switched off", after: grace + 3*lateAfter},
	} {
		s.Encryption.Enabled4 = step.enabled
		s.Nodes["n3"].Tunnels.Sends = step.n3
		if step.seen != nil {
			v.Encrypted = step.seen
		}
		now := begin.Add(step.after)
		before, _ := json.Marshal(r)
		next := r.next(s, v, step.settled, now, grace)
		if after, _ := json.Marshal(r); string(after) != string(before) {
			t.Fatalf("%s: next changed what it was called on", step.what)
		}
		r = next
		st := r.state()
		if st.Over != step.over || st.Seen["n2"] != step.seen2 || st.Refused["n3"] != step.refused3 || st.Refused["n2"] || r.wait(now, grace) != step.wait {
			t.Errorf("%s: over %v seen %v refused %v, wait %v; want over %v, n2 seen %v, n3 refused %v, wait %v", step.what, st.Over, st.Seen, st.Refused,
				r.wait(now, grace), step.over, step.seen2, step.refused3, step.wait)
		}
	}
	if !r.same(rollout{}) || !r.lasting(rollout{}) {
		t.Errorf("off, there is nothing to remember, got %+v", r)
	}
}

// TestRolloutOfAll: once all nodes encrypt and none sends in clear it is over without waiting, but not by a
// run that failed; and that is remembered.
func TestRolloutOfAll(t *testing.T) {
	s := rolloutSnapshot(true)
	s.Nodes["n3"].Tunnels.Sends = nil
	s.EncryptionState.Seen = map[model.NodeName]bool{"n2": true, "n3": true}
	now := time.Unix(1000, 0)
	v := &topology.View{Encrypted: s.EncryptionState.Seen}
	if r := (rollout{}).next(s, v, false, now, time.Hour); r.Over {
		t.Error("a run that failed ends the rollout")
	}
	r := rollout{}.next(s, v, true, now, time.Hour)
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back rollout
	if err := json.Unmarshal(text, &back); err != nil || !back.lasting(r) || !back.Over || !back.Seen["n3"] {
		t.Errorf("%s is read as %+v, %v", text, back, err)
	}
}

// TestRolloutOfHosts: whose own addresses were reached in cipher text is remembered, over a restart too, until that is
// switched off.
func TestRolloutOfHosts(t *testing.T) {
	s := rolloutSnapshot(true)
	s.Encryption.Host = true
	v := &topology.View{Hosts: []topology.Path{{Node: "n2", Reach: topology.WireGuard}, {Node: "n3", Reach: topology.Direct}, {Node: "n4", Reach: topology.WireGuard, Unready: true}}}
	now := time.Unix(1000, 0)
	if r := (rollout{}).next(s, v, false, now, time.Hour); len(r.Hosts) > 0 {
		t.Errorf("a run that failed reached %v", r.Hosts)
	}
	first := rollout{}.next(s, v, true, now, time.Hour)
	want := map[model.NodeName]bool{"n2": true}
	if d := cmp.Diff(want, first.state().Hosts); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if none := (rollout{Since: first.Since, Over: first.Over, Seen: first.Seen}); first.same(none) || first.lasting(none) {
		t.Error("nothing tells that there is something to remember")
	}
	text, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	var r rollout
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if r = r.next(s, &topology.View{}, true, now, time.Hour); !r.Hosts["n2"] || len(r.Hosts) != 1 {
		t.Errorf("later it remembers %v", r.Hosts)
	}
	s.Encryption.Host = false
	if r = r.next(s, &topology.View{}, true, now, time.Hour); len(r.Hosts) > 0 {
		t.Errorf("switched off, it remembers %v", r.Hosts)
	}
}
