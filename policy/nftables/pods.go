package nftables

import (
	"bytes"
	"net/netip"
	"slices"

	lib "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// Names of the sets and maps that pods are found in by their device.
const (
	setPods    = prefix + "pods"    // devices with an entry
	mapEgress  = prefix + "egress"  // what a pod sends
	mapIngress = prefix + "ingress" // what is sent to a pod
	sources    = prefix + "sources" // device, MAC and address that it may send from; by family
	ranges     = prefix + "ranges"  // the same with prefixes of addresses
)

var families = [2]model.Family{model.IPv4, model.IPv6}

func familySuffix(f model.Family) string {
	if f == model.IPv4 {
		return "4"
	}
	return "6"
}

func specPods() lib.Set {
	return lib.Set{Name: setPods, KeyType: lib.TypeIFName, KeyByteOrder: binaryutil.NativeEndian, Comment: "devices of pods with an entry"}
}

func specDispatch(name, comment string) lib.Set {
	return lib.Set{Name: name, IsMap: true, KeyType: lib.TypeIFName, DataType: lib.TypeVerdict, KeyByteOrder: binaryutil.NativeEndian, Comment: comment}
}

func specEgress() lib.Set  { return specDispatch(mapEgress, "what a pod sends") }
func specIngress() lib.Set { return specDispatch(mapIngress, "what is sent to a pod") }

func specSources(f model.Family) lib.Set {
	return lib.Set{Name: sources + familySuffix(f), Concatenation: true, KeyByteOrder: binaryutil.BigEndian,
		KeyType: lib.MustConcatSetType(lib.TypeIFName, lib.TypeEtherAddr, nft.AddrType(f)), Comment: "addresses that a pod may send from"}
}

func specRanges(f model.Family) lib.Set {
	s := specSources(f)
	s.Name, s.Interval, s.Comment = ranges+familySuffix(f), true, "prefixes that a pod may send from"
	return s
}

// podState is what a pod has in sets and maps.
type podState struct {
	egress, ingress *object // hooks
	mac             model.MAC
	sources         []netip.Prefix
}

func deviceKey(device string) []byte {
	key := make([]byte, 16)
	copy(key[:15], device)
	return key
}

// jumpTo is the element of a map that has packets of a device judged by a hook. It jumps, and does not go:
// a packet that comes back from there undecided, which no hook of a pod lets happen but the kernel may in
// the moment in which a new one comes, goes on to a rule that drops it.
func jumpTo(device string, hook *object) lib.SetElement {
	return lib.SetElement{Key: deviceKey(device), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: hook.name}}
}

// sourceElements are the elements for what a pod may send from, of single addresses or of prefixes.
func (p *podState) sourceElements(device string, f model.Family, wide bool) []lib.SetElement {
	var list []lib.SetElement
	for _, n := range p.sources {
		if model.FamilyOf(n.Addr()) != f || n.IsSingleIP() == wide {
			continue
		}
		start := append(append(deviceKey(device), p.mac[:]...), 0, 0)
		r := nft.Range(n)
		e := lib.SetElement{Key: append(bytes.Clone(start), r.Key...)}
		if wide {
			e.KeyEnd = append(start, r.KeyEnd...)
		}
		list = append(list, e)
	}
	return list
}

// setPod follows a pod that is new or changed.
func (s *state) setPod(device string) {
	e := s.program.Endpoints[device]
	old, now := s.pods[device], &podState{mac: e.MAC, sources: e.Sources}
	now.egress = s.podHook(&e.Egress, model.Egress)
	now.ingress = s.podHook(&e.Ingress, model.Ingress)
	s.acquire([]*object{now.egress, now.ingress})
	s.pods[device] = now
	s.move(device, old, now)
}

func (s *state) removePod(device string) {
	if old := s.pods[device]; old != nil {
		delete(s.pods, device)
		s.move(device, old, nil)
	}
}

// move notes how the elements of a pod differ; nil is a pod that is not there.
func (s *state) move(device string, old, now *podState) {
	hook := func(spec lib.Set, of func(*podState) *object) {
		e := elements{set: spec}
		if old != nil {
			e.del = append(e.del, lib.SetElement{Key: deviceKey(device)})
		}
		if now != nil {
			e.add = append(e.add, jumpTo(device, of(now)))
		}
		if old == nil || now == nil || of(old) != of(now) {
			s.todo.dispatch = append(s.todo.dispatch, e)
		}
	}
	hook(specEgress(), func(p *podState) *object { return p.egress })
	hook(specIngress(), func(p *podState) *object { return p.ingress })
	if (old == nil) != (now == nil) {
		e := elements{set: specPods()}
		if one := []lib.SetElement{{Key: deviceKey(device)}}; old == nil {
			e.add = one
		} else {
			e.del = one
		}
		s.todo.dispatch = append(s.todo.dispatch, e)
	}
	if old != nil {
		s.release([]*object{old.egress, old.ingress})
	}
	if old != nil && now != nil && old.mac == now.mac && slices.Equal(old.sources, now.sources) {
		return
	}
	for i, f := range families {
		for _, wide := range []bool{false, true} {
			e := elements{set: specSources(f)}
			if wide {
				e.set = specRanges(f)
			}
			if old != nil {
				e.del = old.sourceElements(device, f, wide)
			}
			if now != nil {
				e.add = now.sourceElements(device, f, wide)
			}
			if wide {
				s.ranges[i] += btoi(len(e.add) > 0) - btoi(len(e.del) > 0)
			}
			if len(e.del)+len(e.add) > 0 {
				s.todo.dispatch = append(s.todo.dispatch, e)
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fixedSets are those that exist whatever the Program says.
func fixedSets(s *state) []nft.Set {
	all := func(spec lib.Set, of func(device string, p *podState) []lib.SetElement) nft.Set {
		return nft.Set{Spec: spec, Elements: func() []lib.SetElement {
			var e []lib.SetElement
			for device, p := range s.pods {
				e = append(e, of(device, p)...)
			}
			return e
		}}
	}
	list := []nft.Set{
		discoverySet(),
		all(specPods(), func(d string, _ *podState) []lib.SetElement { return []lib.SetElement{{Key: deviceKey(d)}} }),
		all(specEgress(), func(d string, p *podState) []lib.SetElement { return []lib.SetElement{jumpTo(d, p.egress)} }),
		all(specIngress(), func(d string, p *podState) []lib.SetElement { return []lib.SetElement{jumpTo(d, p.ingress)} }),
	}
	for _, f := range families {
		list = append(list,
			all(specSources(f), func(d string, p *podState) []lib.SetElement { return p.sourceElements(d, f, false) }),
			all(specRanges(f), func(d string, p *podState) []lib.SetElement { return p.sourceElements(d, f, true) }))
	}
	return list
}

// podHook is the chain that judges what a pod sends or is sent.
func (s *state) podHook(h *policy.Hook, d model.Direction) *object {
	return s.hook(h, hookOf{direction: d, end: dropEnd})
}
