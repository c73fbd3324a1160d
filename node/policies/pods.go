package policies

import (
	"slices"
	"strings"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// Attach tells of a pod that this host has. record, which may be nil, is what is being written into
// the store for it, so that nobody waits for it to come back.
func (f *Feeder) Attach(a Attachment, record *v3.WorkloadEndpoint) error {
	f.attached[a.ID] = a
	if record != nil {
		k := datastore.KeyOf(record)
		err := f.setPod(k, record)
		if err != nil {
			f.problems[k] = Problem{Key: k, Err: err, Instead: f.insteadOf(k)}
		}
		return err
	}
	return f.give(f.byID[a.ID])
}

// Detach tells that this host has the pod no more.
func (f *Feeder) Detach(id model.EndpointID) {
	delete(f.attached, id)
	l := f.byID[id]
	if l == nil {
		return
	}
	_ = f.give(l) // takes it away, which nothing refuses
	if l.gone {
		f.drop(l.key)
		_ = f.use(l.key, nil)
	}
}

// Unrecorded lists the pods that this host has and the store has no record of: nothing passes to or
// from them, since nobody knows what they are.
func (f *Feeder) Unrecorded() []model.EndpointID {
	var out []model.EndpointID
	for id := range f.attached {
		if l := f.byID[id]; l == nil || !l.given {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b model.EndpointID) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func (f *Feeder) setPod(k datastore.Key, w *v3.WorkloadEndpoint) error {
	p, err := podOf(w)
	if err != nil {
		return err
	}
	if w.Spec.Node != string(f.self) {
		f.drop(k)
		names := p.profiles
		if len(names) > 0 {
			names = f.shared(names).names
			p.profiles = names
		}
		// Profiles come first, so that an endpoint never is without what it inherits.
		if err := f.use(k, names); err != nil {
			return err
		}
		return f.to.SetRemote(p.remote(remoteID(k.Namespace, k.Name)))
	}
	f.to.DeleteRemote(remoteID(k.Namespace, k.Name))
	return f.setLocal(k, w, p)
}

func (f *Feeder) setLocal(k datastore.Key, w *v3.WorkloadEndpoint, p *pod) error {
	id := endpointID(w)
	if f.attached != nil {
		id = model.EndpointID{Namespace: w.Namespace, Pod: w.Spec.Pod, Interface: w.Spec.Endpoint}
		if a, there := f.attached[id]; there && a.Container != w.Spec.ContainerID {
			return nil // of an earlier sandbox; that of this one is on its way
		}
	}
	l := f.pods[k]
	if l != nil && l.id != id {
		f.drop(k)
		l = nil
	}
	if l == nil {
		l = &localPod{id: id, key: k}
		f.pods[k] = l
	}
	f.byID[id] = l
	l.gone = false
	l.container, l.device, l.pod = w.Spec.ContainerID, w.Spec.InterfaceName, p
	if err := f.use(k, p.profiles); err != nil {
		return err
	}
	return f.give(l)
}

// give tells the compiler what a pod of this node is by now, or that there is none. It is one when
// the host has it and its record is of the same container.
func (f *Feeder) give(l *localPod) error {
	if l == nil {
		return nil
	}
	device, addresses, mac := l.device, l.pod.addresses, l.pod.mac
	if f.attached != nil {
		a, there := f.attached[l.id]
		if !there || a.Container != l.container {
			if l.given {
				l.given = false
				f.to.DeleteEndpoint(l.id)
			}
			return nil
		}
		device, addresses, mac = a.Device, a.Addresses, a.MAC
	}
	e := l.pod.local(l.id, device, addresses, mac)
	if !f.settings.Spoofing {
		e.Sources = nil
	}
	err := f.to.SetEndpoint(e)
	l.given = l.given || err == nil
	return err
}

// removePod takes a record away. A pod that the host still has keeps what its record said last: who
// deletes a record does not open or close anything.
func (f *Feeder) removePod(k datastore.Key) error {
	f.to.DeleteRemote(remoteID(k.Namespace, k.Name))
	if l := f.pods[k]; l != nil && f.attached != nil && l.given {
		l.gone = true
		return nil
	}
	f.drop(k)
	return f.use(k, nil)
}

// drop forgets the record of a pod of this node, if k is one.
func (f *Feeder) drop(k datastore.Key) {
	l := f.pods[k]
	if l == nil {
		return
	}
	delete(f.pods, k)
	if f.byID[l.id] == l {
		delete(f.byID, l.id)
	}
	if l.given {
		f.to.DeleteEndpoint(l.id)
	}
}
