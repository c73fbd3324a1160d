package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weft/node/datastore"
	"weft/node/rotation"
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
		fmt.Fprintf(cmd.OutOrStdout(), "the keys of %s rotate: epoch %d follows %d\n", many(next.Nodes, "node", "nodes"), next.To, next.From)
		if !wait {
			fmt.Fprintln(cmd.OutOrStdout(), "`weft peers` on a node shows how far it is: the devices of the old key go last")
			return nil
		}
		begin := time.Now()
		if err := awaitKeys(cmd.Context(), store, timeout); err != nil {
			return fmt.Errorf("rotate keys: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "every node has the key of epoch %d only, after %v\n", next.To, time.Since(begin).Round(100*time.Millisecond))
		return nil
	}
	return c
}

// rotate begins the next epoch, unless that is refused; of several callers at a time one succeeds.
func rotate(ctx context.Context, store datastore.Store, force bool) (done rotation.Step, err error) {
	return done, retry(func() error {
		keys, err := rotation.Read(ctx, store)
		if err != nil {
			return err
		}
		if err := keys.MayRotate(force); err != nil {
			return err
		}
		done, err = keys.Begin(ctx, store, time.Now())
		return err
	})
}

// awaitKeys returns when every node has published the key of the cluster's epoch and no other.
func awaitKeys(ctx context.Context, store datastore.Store, timeout time.Duration) error {
	const pause = 500 * time.Millisecond
	deadline := time.Now().Add(timeout)
	for {
		k, err := rotation.Read(ctx, store)
		var behind []string
		if err == nil {
			if behind = k.Behind(); len(behind) == 0 {
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
		return fmt.Errorf("not over after %v: %s; it goes on, and `weft status` and `weft peers` there tell what keeps it", timeout, k.UnderWay(behind))
	}
}
