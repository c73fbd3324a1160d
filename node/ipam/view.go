package ipam

import (
	"context"
	"errors"
	"fmt"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// configName is the name of the one IPAMConfiguration.
const configName = "default"

// StoreView returns a View that reads the store at every call. A node that follows the store anyway
// hands in a View of what it has instead.
func StoreView(store datastore.Store, node string) View {
	return func(ctx context.Context) (*Cluster, error) {
		l, err := store.List(ctx, v3.KindIPPool, v3.KindIPReservation, v3.KindIPAMConfiguration)
		if err != nil {
			return nil, err
		}
		for _, r := range l.Rejected {
			if r.Key.Kind != v3.KindIPPool { // what it forbids is not known: give out nothing
				return nil, fmt.Errorf("read %v: %w", r.Key, r.Err)
			}
		}
		c := &Cluster{}
		for _, o := range l.Items {
			switch o := o.(type) {
			case *v3.IPPool:
				c.Pools = append(c.Pools, o)
			case *v3.IPReservation:
				c.Reservations = append(c.Reservations, o)
			case *v3.IPAMConfiguration:
				if o.Name == configName {
					c.Config = o
				}
			}
		}
		if node == "" {
			return c, nil
		}
		n, err := store.Get(ctx, datastore.Key{Kind: v3.KindNode, Name: node})
		switch {
		case err == nil:
			c.NodeLabels = n.GetLabels()
		case !errors.Is(err, datastore.ErrNotFound):
			return nil, err
		}
		return c, nil
	}
}
