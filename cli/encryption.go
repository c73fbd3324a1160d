package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/policies"
)

func encryptionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "encryption",
		Short: "Rotate the keys of encrypted traffic",
		Long: `Rotates the keys of encrypted traffic. It is switched on by wireguardEnabled and wireguardEnabledV6 of
a FelixConfiguration; "weft status" and "weft peers" show how it does.`,
	}
	c.AddCommand(rotateCommand())
	return c
}

// waitTimeout is how long rotate waits unless told otherwise.
const waitTimeout = 2 * time.Minute

func rotateCommand() *cobra.Command {
	var force, wait bool
	var timeout time.Duration
	var node string
	c := &cobra.Command{
		Use:   "rotate [--wait]",
		Short: "Give every node a new key, without loss",
		Long: `Begins a new epoch of keys: it counts up wireguardKeyEpoch of the FelixConfiguration "default". Every
node makes a new key, and a second device with it; traffic moves there peer by peer, and the old keys go
when nothing is sent by them any more. Nothing is lost and nothing goes in clear.

It is refused while encryption is off, and while an earlier rotation is under way: a node that is not
running keeps its old key in use. --force begins the next one all the same. A device is that of every second
epoch, so a node that has only the key of the last but one is then not reached until it has the new one.
All keys rotate together, since both ends of a pair need the second device.

With --wait it returns when every node has published the new key and no other, or with exit code 1 and the
nodes that have not.`,
		Example: `  weft encryption rotate
  weft encryption rotate --wait --timeout 30s
  weft encryption rotate --force`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case node != "":
				return fmt.Errorf("--node %s: the keys of all nodes rotate together, since both ends of a pair need a device with the new key; leave --node out", node)
			case cmd.Flags().Changed("timeout") && !wait:
				return errors.New("--timeout is for --wait")
			case timeout <= 0:
				return fmt.Errorf("--timeout %v: want more than 0", timeout)
			}
			return exactArgs()(cmd, args)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "begin although an earlier rotation is under way")
	c.Flags().BoolVar(&wait, "wait", false, "wait until every node has the new key only")
	c.Flags().DurationVar(&timeout, "timeout", waitTimeout, "how `long` to wait at most")
	c.Flags().StringVar(&node, "node", "", "")
	_ = c.Flags().MarkHidden("node")
	flags := addStoreFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		store, err := flags.open(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		next, err := rotate(cmd.Context(), store, force)
		if err != nil {
			return fmt.Errorf("rotate keys: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "the keys of %s rotate: epoch %d follows %d\n", many(next.nodes, "node", "nodes"), next.to, next.from)
		if !wait {
			fmt.Fprintln(cmd.OutOrStdout(), "`weft peers` on a node shows how far it is: the devices of the old key go last")
			return nil
		}
		begin := time.Now()
		if err := awaitKeys(cmd.Context(), store, timeout); err != nil {
			return fmt.Errorf("rotate keys: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "every node has the key of epoch %d only, after %v\n", next.to, time.Since(begin).Round(100*time.Millisecond))
		return nil
	}
	return c
}

// rotation is a step from one epoch of keys to another.
type rotation struct{ from, to, nodes int }

// rotate begins the next epoch, unless that is refused; of several callers at a time one succeeds.
func rotate(ctx context.Context, store datastore.Store, force bool) (done rotation, err error) {
	return done, retry(func() error {
		keys, err := readKeys(ctx, store)
		if err != nil {
			return err
		}
		if err := keys.mayRotate(force); err != nil {
			return err
		}
		done = rotation{from: keys.epoch(), to: keys.epoch() + 1, nodes: len(keys.nodes)}
		felix := keys.felix["default"]
		if felix == nil {
			felix = &v3.FelixConfiguration{}
			felix.Name = "default"
			felix.Spec.WireguardKeyEpoch = &done.to
			_, err = store.Create(ctx, felix)
			return err
		}
		felix = felix.DeepCopy()
		felix.Spec.WireguardKeyEpoch = &done.to
		_, err = store.Update(ctx, felix)
		return err
	})
}

// clusterKeys is what the store says of the cluster's keys, at one revision.
type clusterKeys struct {
	felix map[string]*v3.FelixConfiguration
	on    bool       // some node is to encrypt
	nodes []*v3.Node // that are to encrypt, or still do although they are not to any more; sorted
	// unreadable are the names of Node records that cannot be understood.
	unreadable []string
}

func readKeys(ctx context.Context, store datastore.Store) (*clusterKeys, error) {
	list, err := store.List(ctx, v3.KindFelixConfiguration, v3.KindNode)
	if err != nil {
		return nil, err
	}
	k := newClusterKeys(list.Items)
	for _, r := range list.Rejected {
		if r.Key.Kind == v3.KindFelixConfiguration {
			return nil, fmt.Errorf("%s cannot be understood: %w", r.Key, r.Err)
		}
		k.unreadable = append(k.unreadable, r.Key.Name)
	}
	return k, nil
}

func newClusterKeys(objects []v3.Object) *clusterKeys {
	k := &clusterKeys{felix: map[string]*v3.FelixConfiguration{}}
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
			k.nodes = append(k.nodes, n)
		}
	}
	slices.SortFunc(k.nodes, func(a, b *v3.Node) int { return strings.Compare(a.Name, b.Name) })
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

// epoch is that of the cluster.
func (k *clusterKeys) epoch() int {
	if f := k.felix["default"]; f != nil && f.Spec.WireguardKeyEpoch != nil {
		return *f.Spec.WireguardKeyEpoch
	}
	return 0
}

// mayRotate says why the next epoch must not begin now.
func (k *clusterKeys) mayRotate(force bool) error {
	for _, name := range slices.Sorted(maps.Keys(k.felix)) {
		if e := k.felix[name].Spec.WireguardKeyEpoch; name != "default" && e != nil {
			return fmt.Errorf("felixconfiguration/%s sets wireguardKeyEpoch to %d for its nodes alone, which would have no key in common with the others: take it out of there", name, *e)
		}
	}
	switch {
	case !k.on:
		return errors.New("encryption is off: no node's FelixConfiguration has wireguardEnabled or wireguardEnabledV6, so there are no keys in use")
	case k.epoch() >= math.MaxInt32:
		return fmt.Errorf("epoch %d is the last there is: set wireguardKeyEpoch of felixconfiguration/default to 0 instead", k.epoch())
	}
	if behind := k.behind(); len(behind) > 0 && !force {
		return fmt.Errorf("%s; wait, start weft node where it does not run, or delete the Node record of a node that is gone; --force begins the next one all the same, and cuts off who has only the key of the last but one until it has the new one",
			underWay(k, behind))
	}
	return nil
}

// underWay names the nodes that have not the current key alone.
func underWay(k *clusterKeys, behind []string) string {
	const most = 10
	n := len(behind)
	if n > most {
		behind = append(slices.Clone(behind[:most]), fmt.Sprintf("and %d more", n-most))
	}
	return fmt.Sprintf("the rotation to epoch %d is under way: %d of %s do not have that key alone: %s", k.epoch(), n, count(len(k.nodes), "node"), strings.Join(behind, "; "))
}

// behind says of each node that has not published the key of the cluster's epoch, and no other, what it has.
func (k *clusterKeys) behind() []string {
	var out []string
	for _, n := range k.nodes {
		if have := epochsOf(n); !slices.Equal(have, []int{k.epoch()}) {
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
	return "the keys of epochs " + epochNumbers(epochs[:len(epochs)-1]) + fmt.Sprintf(" and %d", epochs[len(epochs)-1])
}

// awaitKeys returns when every node has published the key of the cluster's epoch and no other.
func awaitKeys(ctx context.Context, store datastore.Store, timeout time.Duration) error {
	const pause = 500 * time.Millisecond
	deadline := time.Now().Add(timeout)
	for {
		k, err := readKeys(ctx, store)
		var behind []string
		if err == nil {
			if behind = k.behind(); len(behind) == 0 {
				return nil
			}
		}
		if wait := time.Until(deadline); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(min(wait, pause)):
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("it has begun, but how far it is cannot be read: %w", err)
		}
		return fmt.Errorf("not over after %v: %s; it goes on, and `weft status` and `weft peers` there tell what keeps it", timeout, underWay(k, behind))
	}
}
