package policies

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	v3 "weft/api/v3"
	"weft/model"
)

// pod is what policy reads of a WorkloadEndpoint.
type pod struct {
	labels    map[string]string
	profiles  []string
	addresses []netip.Addr
	ports     []model.EndpointPort
	sources   []netip.Prefix
	mac       model.MAC
}

// podOf converts a WorkloadEndpoint, of any node.
func podOf(w *v3.WorkloadEndpoint) (*pod, error) {
	p := &pod{labels: podLabels(w), profiles: w.Spec.Profiles}
	for _, s := range w.Spec.IPNetworks {
		net, err := prefix(s)
		if err != nil {
			return nil, fmt.Errorf("spec.ipNetworks: %w", err)
		}
		if !net.IsSingleIP() {
			return nil, fmt.Errorf("spec.ipNetworks: %s is not a single address", s)
		}
		p.addresses = append(p.addresses, net.Addr())
	}
	for i := range w.Spec.Ports {
		port := &w.Spec.Ports[i]
		if port.Name == "" {
			continue
		}
		number, err := protocol("protocol", &port.Protocol)
		if err != nil {
			return nil, fmt.Errorf("spec.ports[%d]: %w", i, err)
		}
		p.ports = append(p.ports, model.EndpointPort{Name: port.Name, Protocol: number, Port: port.Port})
	}
	var wrongMAC, wrongNets error
	p.sources, wrongNets = prefixes("spec.allowSpoofedSourcePrefixes", w.Spec.AllowSpoofedSourcePrefixes)
	if w.Spec.MAC != "" {
		p.mac, wrongMAC = model.ParseMAC(w.Spec.MAC)
	}
	return p, errors.Join(wrongMAC, wrongNets)
}

// podLabels returns a pod's own labels, with those that say where it belongs. Nobody gives himself the
// labels of a namespace or service account by naming his own like them.
func podLabels(w *v3.WorkloadEndpoint) map[string]string {
	labels := ownLabels(w.Labels, 3)
	labels[labelNamespace] = w.Namespace
	if w.Spec.Orchestrator != "" {
		labels[labelOrchestrator] = w.Spec.Orchestrator
	}
	if w.Spec.ServiceAccountName != "" {
		labels[labelServiceAccount] = w.Spec.ServiceAccountName
	}
	return labels
}

// ownLabels copies labels without those that only this package gives, with room for more.
func ownLabels(from map[string]string, more int) map[string]string {
	out := make(map[string]string, len(from)+more)
	for k, v := range from {
		switch {
		case k == labelNamespace, k == labelOrchestrator, k == labelServiceAccount,
			strings.HasPrefix(k, namespacePrefix), strings.HasPrefix(k, accountPrefix):
		default:
			out[k] = v
		}
	}
	return out
}

// endpointID names the pod of a record. A record with a name that this project would not give it goes
// by that name, so that no two records are one endpoint.
func endpointID(w *v3.WorkloadEndpoint) model.EndpointID {
	id := model.EndpointID{Namespace: w.Namespace, Pod: w.Spec.Pod, Interface: w.Spec.Endpoint}
	node, podName, iface, ok := splitRecordName(w.Name)
	if !ok || node != w.Spec.Node || podName != id.Pod || iface != id.Interface {
		id.Pod, id.Interface = w.Name, ""
	}
	return id
}

// remoteID names the pod of a record by the record's name alone, which is all that a deletion tells.
func remoteID(namespace, name string) model.RemoteID {
	node, podName, iface, ok := splitRecordName(name)
	if !ok {
		return model.RemoteID{EndpointID: model.EndpointID{Namespace: namespace, Pod: name}}
	}
	return model.RemoteID{Node: model.NodeName(node), EndpointID: model.EndpointID{Namespace: namespace, Pod: podName, Interface: iface}}
}

// splitRecordName reads <node>-k8s-<pod>-<interface>, in which dashes of the parts are doubled.
func splitRecordName(name string) (node, podName, iface string, ok bool) {
	node, rest, ok := cutPart(name)
	if !ok {
		return "", "", "", false
	}
	orchestrator, rest, ok := cutPart(rest)
	if !ok || orchestrator != "k8s" {
		return "", "", "", false
	}
	podName, iface, ok = cutPart(rest)
	if !ok || node == "" || podName == "" || iface == "" || strings.Contains(iface, "-") {
		return "", "", "", false
	}
	return node, podName, iface, true
}

// cutPart cuts at the first dash that stands alone.
func cutPart(s string) (part, rest string, ok bool) {
	for i := 0; i < len(s); i++ {
		if s[i] != '-' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '-' {
			i++
			continue
		}
		return strings.ReplaceAll(s[:i], "--", "-"), s[i+1:], true
	}
	return "", "", false
}

// hostOf converts a HostEndpoint.
func hostOf(h *v3.HostEndpoint) (*model.HostEndpoint, error) {
	out := &model.HostEndpoint{Name: h.Name, Node: model.NodeName(h.Spec.Node), Interface: h.Spec.InterfaceName,
		Labels: ownLabels(h.Labels, 0), Profiles: h.Spec.Profiles}
	for _, s := range h.Spec.ExpectedIPs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("spec.expectedIPs: %w", err)
		}
		out.ExpectedIPs = append(out.ExpectedIPs, a)
	}
	for i := range h.Spec.Ports {
		p := &h.Spec.Ports[i]
		number, err := protocol("protocol", &p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("spec.ports[%d]: %w", i, err)
		}
		out.Ports = append(out.Ports, model.EndpointPort{Name: p.Name, Protocol: number, Port: p.Port})
	}
	return out, nil
}

// setOf converts a network set; one without a namespace is a GlobalNetworkSet.
func setOf(o v3.Object, s *v3.NetworkSetSpec) (*model.NetworkSet, error) {
	out := &model.NetworkSet{ID: model.NetworkSetID{Namespace: o.GetNamespace(), Name: o.GetName()}, Labels: ownLabels(o.GetLabels(), 1)}
	if ns := o.GetNamespace(); ns != "" {
		out.Labels[labelNamespace] = ns
		out.Profiles = []string{namespaceProfile(ns)}
	}
	var err error
	out.Nets, err = prefixes("spec.nets", s.Nets)
	return out, err
}

func namespaceProfile(ns string) string { return "kns." + ns }

func accountProfile(ns, name string) string { return "ksa." + ns + "." + name }

// defaultAllow is the profile that lets everything through; host endpoints that are made by a
// controller name it.
const defaultAllow = "projectcalico-default-allow"

func allowAll() []model.Rule { return []model.Rule{{Action: model.Allow}} }

// profileOf converts a Profile.
func profileOf(p *v3.Profile) (*model.Profile, error) {
	out := &model.Profile{Name: p.Name, Labels: p.Spec.LabelsToApply}
	var in, eg error
	out.Ingress, in = rules("ingress", p.Spec.Ingress, "")
	out.Egress, eg = rules("egress", p.Spec.Egress, "")
	return out, errors.Join(in, eg)
}

// inherited returns the labels that a namespace or service account gives its pods.
func inherited(labels map[string]string, prefix, name string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	for k, v := range labels {
		out[prefix+k] = v
	}
	out[prefix+labelName] = name
	return out
}

// implied returns the labels of a namespace or service account that pods name and nobody described:
// on the etcd store neither needs a resource. ok is false for any other profile.
func implied(profile string) (labels map[string]string, ok bool) {
	if ns, found := strings.CutPrefix(profile, "kns."); found {
		return inherited(map[string]string{corev1.LabelMetadataName: ns}, namespacePrefix, ns), true
	}
	if rest, found := strings.CutPrefix(profile, "ksa."); found {
		if _, name, found := strings.Cut(rest, "."); found {
			return inherited(nil, accountPrefix, name), true
		}
	}
	return nil, false
}

// profileFrom puts together a profile by name: labels of the namespace or service account that it
// stands for, and rules of the Profile of that name, if there is one. used tells that something names
// it. It is nil when there is no such profile.
func profileFrom(name string, generated map[string]string, resource *model.Profile, used bool) *model.Profile {
	isNamespace := strings.HasPrefix(name, "kns.")
	if generated == nil && resource == nil {
		if !used {
			return nil
		}
		if name == defaultAllow {
			return &model.Profile{Name: name, Ingress: allowAll(), Egress: allowAll()}
		}
	}
	if generated == nil {
		implicit, ok := implied(name)
		switch {
		case !ok:
			return resource
		case resource != nil && resource.Labels != nil:
			return resource // a controller wrote it, labels and all
		}
		generated = implicit
	}
	out := &model.Profile{Name: name, Labels: generated}
	switch {
	case resource != nil:
		out.Ingress, out.Egress = resource.Ingress, resource.Egress
	case isNamespace:
		out.Ingress, out.Egress = allowAll(), allowAll()
	}
	return out
}
