package node

import (
	"slices"
	"sync"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/model/topology"
)

// linger is how long a node still receives by a tunnel after the last peer said that it no longer
// sends by it: packets may be under way.
const linger = 2 * time.Second

// announcer passes what this node's record is to say of its tunnels from the runs of the engine,
// which find it out, to the publisher, which writes it. See topology.Announce for the rules.
type announcer struct {
	kick  func() // asks the publisher to look
	again func() // asks for another run
	now   func() time.Time

	running sync.Mutex // held during a run: nothing is taken back under it

	mu    sync.Mutex
	said  *model.Tunnels                // in the record that the last run read
	next  *model.Tunnels                // what the last run wants said; nil: nothing was applied yet
	idle  map[model.TunnelEnd]time.Time // since when nothing needs to be received by it
	taken *model.Tunnels                // what was taken to be written
	cache struct{ in, out *model.Node } // of restrict
}

// restrict returns this node as a run may take it: what was taken back, also if the store has not
// said so yet, is not used.
func (a *announcer) restrict(self *model.Node) *model.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	if self == nil || a.taken == nil {
		return self
	}
	if a.cache.in != self {
		a.cache.in, a.cache.out = self, self.Pending(*a.taken)
	}
	return a.cache.out
}

// ran notes what a run found out. Receiving ends late.
func (a *announcer) ran(self *model.Node, want model.Tunnels) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = self.Tunnels
	idle := map[model.TunnelEnd]time.Time{}
	if a.said != nil {
		for _, e := range a.said.Receives {
			if slices.Contains(want.Receives, e) {
				continue
			}
			since, ok := a.idle[e]
			if !ok {
				since = a.now()
				time.AfterFunc(linger, a.again)
			}
			if idle[e] = since; a.now().Sub(since) < linger {
				want.Receives = append(want.Receives, e)
			}
		}
	}
	topology.SortEnds(want.Receives)
	a.idle, a.next = idle, &want
	if a.said == nil || !sameTunnels(*a.said, want) {
		a.kick()
	}
}

// take returns what the record is to say from now on; ok is false when that is not known yet. From
// here on no run uses what it leaves out.
func (a *announcer) take() (say model.Tunnels, ok bool) {
	a.running.Lock()
	defer a.running.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		return model.Tunnels{}, false
	}
	a.taken, a.cache.in = a.next, nil
	return *a.next, true
}

func sameTunnels(a, b model.Tunnels) bool {
	return slices.Equal(a.Receives, b.Receives) && slices.Equal(a.Sends, b.Sends) && a.EncryptedOnly == b.EncryptedOnly && slices.Equal(a.Routed, b.Routed)
}

const noEncapsulation = "None"

func endsOf(ends []v3.NodeTunnelEnd) []model.TunnelEnd {
	var out []model.TunnelEnd
	for _, e := range ends {
		end := model.TunnelEnd{VNI: e.VNI, Port: e.Port, Epoch: e.KeyEpoch}
		for _, f := range []model.Family{model.IPv4, model.IPv6} {
			if f.String() == e.Family {
				end.Family = f
			}
		}
		for _, encap := range []model.Encap{model.EncapVXLAN, model.EncapIPIP, model.EncapWireGuard} {
			if encap.String() == e.Encapsulation {
				end.Encap = encap
			}
		}
		if end.Encap != model.EncapNone || e.Encapsulation == noEncapsulation {
			out = append(out, end)
		}
	}
	topology.SortEnds(out)
	return out
}

func endsTo(ends []model.TunnelEnd) []v3.NodeTunnelEnd {
	var out []v3.NodeTunnelEnd
	for _, e := range ends {
		w := v3.NodeTunnelEnd{Encapsulation: noEncapsulation, VNI: e.VNI, Port: e.Port, KeyEpoch: e.Epoch}
		if e.Encap != model.EncapNone {
			w.Encapsulation, w.Family = e.Encap.String(), e.Family.String()
		}
		out = append(out, w)
	}
	return out
}
