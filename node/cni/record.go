package cni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/model"
	"weft/node/datastore"
)

// Labels that every WorkloadEndpoint has beside the pod's own.
const (
	labelNamespace      = "projectcalico.org/namespace"
	labelOrchestrator   = "projectcalico.org/orchestrator"
	labelServiceAccount = "projectcalico.org/serviceaccount"
)

func recordKey(a *attachment) datastore.Key {
	return datastore.Key{Kind: v3.KindWorkloadEndpoint, Namespace: a.Namespace, Name: a.Record}
}

// tell returns what the runtime tells of a pod.
func tell(p podIdentity, c *netConf) *told {
	pod := &c.Args.Weft
	t := &told{Orchestrator: p.Orchestrator, UID: p.UID, ServiceAccount: pod.ServiceAccount, Labels: map[string]string{},
		Annotations: pod.Annotations, Ports: pod.Ports}
	for _, l := range c.Args.CNI.Labels {
		t.Labels[l.Key] = l.Value
	}
	return t
}

// record returns the WorkloadEndpoint of an attachment, of whose pod something was told.
func record(node string, a *attachment) *v3.WorkloadEndpoint {
	pod := a.Told
	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	maps.Copy(labels, map[string]string{labelNamespace: a.Namespace, labelOrchestrator: pod.Orchestrator})
	profiles := []string{"kns." + a.Namespace}
	if pod.ServiceAccount != "" {
		labels[labelServiceAccount] = pod.ServiceAccount
		profiles = append(profiles, "ksa."+a.Namespace+"."+pod.ServiceAccount)
	}
	w := &v3.WorkloadEndpoint{
		TypeMeta:   metav1.TypeMeta{APIVersion: v3.Group + "/" + v3.Version, Kind: v3.KindWorkloadEndpoint},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.Namespace, Name: a.Record, Labels: labels, Annotations: maps.Clone(pod.Annotations)},
		Spec: v3.WorkloadEndpointSpec{
			Orchestrator: pod.Orchestrator, Node: node, ContainerID: a.ContainerID, Pod: a.Pod, Endpoint: a.IfName,
			ServiceAccountName: pod.ServiceAccount, Profiles: profiles, InterfaceName: a.Device, MAC: a.MAC,
		},
	}
	if pod.Orchestrator != "k8s" {
		w.Spec.Workload = a.Pod
	}
	for _, ip := range a.Addresses {
		w.Spec.IPNetworks = append(w.Spec.IPNetworks, model.HostPrefix(ip).String())
		if gw := kernel.PodGateway(model.FamilyOf(ip)); gw.Is4() {
			w.Spec.IPv4Gateway = gw.String()
		} else {
			w.Spec.IPv6Gateway = gw.String()
		}
	}
	for _, port := range pod.Ports {
		protocol := port.Protocol
		if protocol == "" {
			protocol = "TCP"
		}
		w.Spec.Ports = append(w.Spec.Ports, v3.EndpointPort{Name: strings.ToLower(port.Name),
			Protocol: intstr.Parse(protocol), Port: port.Port})
	}
	return w
}

// uidOf is the UID of the pod that a is of; empty: not known.
func uidOf(a *attachment) string {
	if a.Told == nil {
		return ""
	}
	return a.Told.UID
}

// putRecord writes the record, or takes over that of an earlier sandbox of the same pod. uid is the pod's; empty: not known.
func (s *Server) putRecord(ctx context.Context, w *v3.WorkloadEndpoint, uid string) error {
	if s.cfg.WriteRecord != nil && uid != "" && w.Spec.Orchestrator == "k8s" {
		w.UID = types.UID(uid)
		if err := s.cfg.WriteRecord(ctx, w); err != nil {
			return fmt.Errorf("write the addresses of pod %s/%s: %w", w.Namespace, w.Spec.Pod, err)
		}
		return nil
	}
	_, err := s.cfg.Store.Create(ctx, w)
	if errors.Is(err, datastore.ErrAlreadyExists) {
		// Nobody but this node writes the records of its pods, and the pod is locked: whatever is
		// there is of an earlier sandbox.
		_, err = s.cfg.Store.Update(ctx, w)
	}
	if errors.Is(err, datastore.ErrNotFound) { // deleted between the two calls
		_, err = s.cfg.Store.Create(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("write the record of pod %s/%s: %w", w.Namespace, w.Spec.Pod, err)
	}
	return nil
}

// getRecord reads the record of a and tells whether it is of this very sandbox.
func (s *Server) getRecord(ctx context.Context, a *attachment) (w *v3.WorkloadEndpoint, ours bool, err error) {
	o, err := s.cfg.Store.Get(ctx, recordKey(a))
	if errors.Is(err, datastore.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	w, ok := o.(*v3.WorkloadEndpoint)
	if !ok {
		return nil, false, fmt.Errorf("read %s: the store gave a %T", recordKey(a), o)
	}
	return w, w.Spec.ContainerID == a.ContainerID, nil
}

// deleteRecord removes the record of a, unless it is of another sandbox by now.
func (s *Server) deleteRecord(ctx context.Context, a *attachment) error {
	for {
		w, ours, err := s.getRecord(ctx, a)
		if err != nil || !ours {
			return err
		}
		err = s.cfg.Store.Delete(ctx, recordKey(a), datastore.Precondition{ResourceVersion: w.ResourceVersion})
		if errors.Is(err, datastore.ErrConflict) {
			continue // changed in between: look again; ends with ctx at the latest
		}
		if errors.Is(err, datastore.ErrNotFound) {
			return nil
		}
		return err
	}
}
