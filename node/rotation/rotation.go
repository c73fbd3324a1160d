// Package rotation knows what the store says of the cluster's keys, and begins the next epoch of them: because somebody
// asks for it, or since the period is over that the FelixConfiguration "default" names. What nodes then do is theirs.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/policies"
)

// Mark is the annotation of the FelixConfiguration "default" that says when its epoch of keys began: "EPOCH TIME", the
// latter as RFC 3339 has it. It is written together with the epoch; one of another epoch says nothing.
const Mark = "weft.io/wireguard-key-rotated"

// Step is from one epoch of keys to another, of so many nodes.
type Step struct{ From, To, Nodes int }

// Keys is what the store says of the cluster's keys, at one revision.
type Keys struct {
	felix map[string]*v3.FelixConfiguration
	on    bool       // some node is to encrypt
	Nodes []*v3.Node // that are to encrypt, or still do although they are not to any more; sorted
	// unreadable are the names of Node records that cannot be understood.
	unreadable []string
}

// Read reads it.
func Read(ctx context.Context, store datastore.Store) (*Keys, error) {
	list, err := store.List(ctx, v3.KindFelixConfiguration, v3.KindNode)
	if err != nil {
		return nil, err
	}
	k := New(list.Items)
	for _, r := range list.Rejected {
		if r.Key.Kind == v3.KindFelixConfiguration {
			return nil, fmt.Errorf("%s cannot be understood: %w", r.Key, r.Err)
		}
		k.unreadable = append(k.unreadable, r.Key.Name)
	}
	return k, nil
}

// New finds it among the FelixConfigurations and Nodes of a store.
func New(objects []v3.Object) *Keys {
	k := &Keys{felix: map[string]*v3.FelixConfiguration{}}
	for _, o := range objects {
		if f, ok := o.(*v3.FelixConfiguration); ok {
			k.felix[f.Name] = f
		}
	}
	for _, o := range objects {
		n, ok := o.(*v3.Node)
		if !ok {
			continue
		}
		on := anyEncrypts(policies.FelixChain(model.NodeName(n.Name), n.Labels, k.felix))
		if k.on = k.on || on; on || len(epochsOf(n)) > 0 {
			k.Nodes = append(k.Nodes, n)
		}
	}
	slices.SortFunc(k.Nodes, func(a, b *v3.Node) int { return strings.Compare(a.Name, b.Name) })
	return k
}

// anyEncrypts tells whether what FelixConfigurations say together, the weakest first, is to encrypt anything.
func anyEncrypts(chain []*v3.FelixConfiguration) bool {
	var v4, v6 bool
	for _, f := range chain {
		if f.Spec.WireguardEnabled != nil {
			v4 = *f.Spec.WireguardEnabled
		}
		if f.Spec.WireguardEnabledV6 != nil {
			v6 = *f.Spec.WireguardEnabledV6
		}
	}
	return v4 || v6
}

// Epoch is that of the cluster.
func (k *Keys) Epoch() int {
	if f := k.felix["default"]; f != nil && f.Spec.WireguardKeyEpoch != nil {
		return *f.Spec.WireguardKeyEpoch
	}
	return 0
}

// MayRotate says why the next epoch must not begin now.
func (k *Keys) MayRotate(force bool) error {
	for _, name := range slices.Sorted(maps.Keys(k.felix)) {
		if e := k.felix[name].Spec.WireguardKeyEpoch; name != "default" && e != nil {
			return fmt.Errorf("felixconfiguration/%s sets wireguardKeyEpoch to %d for its nodes alone, which would have no key in common with the others: take it out of there", name, *e)
		}
	}
	switch {
	case !k.on:
		return errors.New("encryption is off: no node's FelixConfiguration has wireguardEnabled or wireguardEnabledV6, so there are no keys in use")
	case k.Epoch() >= math.MaxInt32:
		return fmt.Errorf("epoch %d is the last there is: set wireguardKeyEpoch of felixconfiguration/default to 0 instead", k.Epoch())
	}
	if behind := k.Behind(); len(behind) > 0 && !force {
		return fmt.Errorf("%s; wait, start weft node where it does not run, or delete the Node record of a node that is gone; --force begins the next one all the same, and cuts off who has only the key of the last but one until it has the new one",
			k.UnderWay(behind))
	}
	return nil
}

// UnderWay names the nodes that have not the current key alone.
func (k *Keys) UnderWay(behind []string) string {
	const most = 10
	n := len(behind)
	if n > most {
		behind = append(slices.Clone(behind[:most]), fmt.Sprintf("and %d more", n-most))
	}
	nodes := strconv.Itoa(len(k.Nodes)) + " nodes"
	if len(k.Nodes) == 1 {
		nodes = "1 node"
	}
	return fmt.Sprintf("the rotation to epoch %d is under way: %d of %s do not have that key alone: %s", k.Epoch(), n, nodes, strings.Join(behind, "; "))
}

// Behind says of each node that has not published the key of the cluster's epoch, and no other, what it has.
func (k *Keys) Behind() []string {
	var out []string
	for _, n := range k.Nodes {
		if have := epochsOf(n); !slices.Equal(have, []int{k.Epoch()}) {
			out = append(out, n.Name+" has "+describeEpochs(have))
		}
	}
	for _, name := range k.unreadable {
		out = append(out, name+" has a record that cannot be understood")
	}
	return out
}

// epochsOf lists, sorted, the epochs of the keys that a node published. Without a list the one key is that of
// epoch 0.
func epochsOf(n *v3.Node) []int {
	var epochs []int
	for _, k := range n.Status.WireguardKeys {
		epochs = append(epochs, k.Epoch)
	}
	if epochs == nil && n.Status.WireguardPublicKey != "" {
		epochs = []int{0}
	}
	slices.Sort(epochs)
	return epochs
}

func describeEpochs(epochs []int) string {
	switch len(epochs) {
	case 0:
		return "no key"
	case 1:
		return fmt.Sprintf("the key of epoch %d", epochs[0])
	}
	return "the keys of epochs " + numbers(epochs[:len(epochs)-1]) + fmt.Sprintf(" and %d", epochs[len(epochs)-1])
}

func numbers(epochs []int) string {
	var s []string
	for _, e := range epochs {
		s = append(s, strconv.Itoa(e))
	}
	return strings.Join(s, ", ")
}

// Begin writes the next epoch, and since when; datastore.ErrConflict and ErrAlreadyExists say that somebody else was
// faster.
func (k *Keys) Begin(ctx context.Context, store datastore.Store, now time.Time) (Step, error) {
	step := Step{From: k.Epoch(), To: k.Epoch() + 1, Nodes: len(k.Nodes)}
	return step, k.write(ctx, store, func(f *v3.FelixConfiguration) {
		f.Spec.WireguardKeyEpoch = &step.To
		mark(f, step.To, now)
	})
}

func mark(f *v3.FelixConfiguration, epoch int, now time.Time) {
	if f.Annotations == nil {
		f.Annotations = map[string]string{}
	}
	f.Annotations[Mark] = strconv.Itoa(epoch) + " " + now.UTC().Format(time.RFC3339)
}

func (k *Keys) write(ctx context.Context, store datastore.Store, change func(*v3.FelixConfiguration)) error {
	felix := k.felix["default"]
	if felix == nil {
		felix = &v3.FelixConfiguration{}
		felix.Name = "default"
		change(felix)
		_, err := store.Create(ctx, felix)
		return err
	}
	felix = felix.DeepCopy()
	change(felix)
	_, err := store.Update(ctx, felix)
	return err
}
