package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"weft/internal/kernel"
)

const (
	// cniTimeout bounds one CNI call.
	cniTimeout = 60 * time.Second
	// maxPodName is the length of a DNS label, in bytes.
	maxPodName = 63
)

// PodSpec describes a pod to attach.
type PodSpec struct {
	Node           string
	Namespace      string
	Name           string
	Labels         map[string]string
	Annotations    map[string]string
	Ports          []Port
	ServiceAccount string
}

func checkPodName(namespace, name string) error {
	if err := checkName(namespace, maxPodName); err != nil {
		return fmt.Errorf("namespace of the pod: %w", err)
	}
	if err := checkName(name, maxPodName); err != nil {
		return fmt.Errorf("pod: %w", err)
	}
	return nil
}

// ParsePodName reads NAMESPACE/NAME.
func ParsePodName(s string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		return "", "", fmt.Errorf("pod %q: want NAMESPACE/NAME", s)
	}
	return namespace, name, checkPodName(namespace, name)
}

// AddPod makes a pod's network namespace and attaches it by CNI ADD, as the container runtime of
// the node would. A pod that cannot be attached is removed again.
func (l *Lab) AddPod(ctx context.Context, spec PodSpec) (types.Result, error) {
	if err := checkPodName(spec.Namespace, spec.Name); err != nil {
		return nil, err
	}
	k, s, err := l.lockShared(ctx)
	if err != nil {
		return nil, err
	}
	defer k.release()
	p, err := l.node(s, spec.Node)
	if err != nil {
		return nil, err
	}
	one, err := l.lockOne(ctx, spec.Namespace+"."+spec.Name)
	if err != nil {
		return nil, err
	}
	defer one.release()
	r := podRecord{
		Namespace: spec.Namespace, Name: spec.Name, Node: p.Name, Netns: l.PodNetns(spec.Namespace, spec.Name),
		ContainerID: randomHex(32), UID: randomUUID(), Created: time.Now(),
		Args: podArgs{spec.Labels, spec.Annotations, spec.Ports, spec.ServiceAccount},
	}
	if err := l.checkNewPod(r); err != nil {
		return nil, err
	}
	res, err := l.attach(ctx, p, r)
	if err == nil {
		return res, nil
	}
	err = fmt.Errorf("attach pod %s/%s on %s: %w", r.Namespace, r.Name, p.Name, err)
	if errors.Is(err, errInterrupted) {
		return nil, err
	}
	// A failed ADD may have left something behind: the specification asks for a DEL.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cniTimeout)
	defer cancel()
	_, delErr := l.detach(clean, p, r)
	return nil, errors.Join(err, delErr)
}

// checkNewPod refuses a pod that is there already, and a namespace that somebody else made.
func (l *Lab) checkNewPod(r podRecord) error {
	var old podRecord
	if err := readJSON(podPath(l.dir, r), &old); err == nil {
		return fmt.Errorf("pod %s/%s exists already, on %s: remove it with weft lab pod rm%s %s/%s",
			r.Namespace, r.Name, old.Node, l.nameFlag(), r.Namespace, r.Name)
	}
	if _, err := os.Lstat(kernel.NetnsPath(r.Netns)); err == nil {
		return fmt.Errorf("network namespace %s exists already and is no pod of this lab: remove it with ip netns del %s", r.Netns, r.Netns)
	}
	return nil
}

// attach makes the namespace and calls the plugin. What it is about to make is on record first.
func (l *Lab) attach(ctx context.Context, p Process, r podRecord) (types.Result, error) {
	if err := mark(l.dir, r.Netns); err != nil {
		return nil, err
	}
	if err := writeJSON(podPath(l.dir, r), r); err != nil {
		return nil, err
	}
	if err := l.fault("pod recorded"); err != nil {
		return nil, err
	}
	if err := makeNamespace(ctx, Namespace{Name: r.Netns}); err != nil {
		return nil, err
	}
	if err := l.fault("pod namespace"); err != nil {
		return nil, err
	}
	cni, list, err := l.runtimeOf(p)
	if err != nil {
		return nil, err
	}
	if list, err = withArgs(list, r.Args); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cniTimeout)
	defer cancel()
	res, err := cni.AddNetworkList(ctx, list, l.runtimeConf(r, kernel.NetnsPath(r.Netns)))
	if err != nil {
		return nil, err
	}
	if err := l.fault("pod attached"); err != nil {
		return nil, err
	}
	r.Addresses = resultAddresses(res)
	return res, writeJSON(podPath(l.dir, r), r)
}

// PodRemoval tells what RemovePod did.
type PodRemoval struct {
	Found bool
	// Owed says why the node could not be told; it is when the node starts again.
	Owed error
}

// RemovePod detaches a pod by CNI DEL and removes its namespace. A pod that does not exist is not
// an error. When the node does not answer, the pod is removed all the same and its release is owed.
func (l *Lab) RemovePod(ctx context.Context, namespace, name string) (PodRemoval, error) {
	if err := checkPodName(namespace, name); err != nil {
		return PodRemoval{}, err
	}
	k, s, err := l.lockShared(ctx)
	if err != nil {
		return PodRemoval{}, err
	}
	defer k.release()
	one, err := l.lockOne(ctx, namespace+"."+name)
	if err != nil {
		return PodRemoval{}, err
	}
	defer one.release()
	var r podRecord
	err = readJSON(podPath(l.dir, podRecord{Namespace: namespace, Name: name}), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return PodRemoval{}, nil
	}
	if err != nil {
		return PodRemoval{}, err
	}
	p, err := l.node(s, r.Node)
	if err != nil {
		return PodRemoval{}, err
	}
	owed, err := l.detach(ctx, p, r)
	if err != nil {
		return PodRemoval{Found: true}, fmt.Errorf("remove pod %s/%s: %w", namespace, name, err)
	}
	return PodRemoval{Found: true, Owed: owed}, nil
}

// detach calls DEL and removes the namespace and the record. The first result is why the node
// could not be told: the release is then on record as owed.
func (l *Lab) detach(ctx context.Context, p Process, r podRecord) (owed, err error) {
	// Recorded before the namespace goes, so that a crash in between loses no release.
	owe := r
	owe.Owed = true
	if err := writeJSON(podPath(l.dir, owe), owe); err != nil {
		return nil, err
	}
	owed = l.del(ctx, p, r, true)
	if err := kernel.DeleteNamedNetns(r.Netns); err != nil {
		return owed, err
	}
	if err := errors.Join(unmark(l.dir, r.Netns), removeFile(podPath(l.dir, r))); err != nil {
		return owed, err
	}
	if owed == nil {
		return nil, removeFile(podPath(l.dir, owe))
	}
	return owed, nil
}

// del is CNI DEL. withNetns says that the namespace may still be there.
func (l *Lab) del(ctx context.Context, p Process, r podRecord, withNetns bool) error {
	cni, list, err := l.runtimeOf(p)
	if err != nil {
		return err
	}
	if list, err = withArgs(list, r.Args); err != nil {
		return err
	}
	netns := ""
	if there, err := kernel.NetnsExists(r.Netns); withNetns && err == nil && there {
		netns = kernel.NetnsPath(r.Netns)
	}
	ctx, cancel := context.WithTimeout(ctx, cniTimeout)
	defer cancel()
	return cni.DelNetworkList(ctx, list, l.runtimeConf(r, netns))
}

// releaseOwed makes up for the DELs that a node missed.
func (l *Lab) releaseOwed(ctx context.Context, p Process) error {
	pods, err := readPods(l.dir, true)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range pods {
		if r.Node != p.Name {
			continue
		}
		err := l.del(ctx, p, r, false)
		if err == nil {
			err = removeFile(podPath(l.dir, r))
			l.say("%s: released %s/%s, removed while it was away", p.Name, r.Namespace, r.Name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("release pod %s/%s on %s: %w", r.Namespace, r.Name, p.Name, err))
		}
	}
	return errors.Join(errs...)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
