package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
)

// KeepPool returns o with the CIDR that the cluster's pool of pods' addresses has, which it keeps for good. It refuses
// another CIDR. Nothing is changed.
func (c *Cluster) KeepPool(ctx context.Context, o Options) (Options, error) {
	_, rest, err := Manifests(o)
	if err != nil {
		return o, err
	}
	for _, x := range rest {
		if x.Kind() != "IPPool" {
			continue
		}
		now, err := c.get(ctx, x)
		if err != nil {
			return o, err
		}
		have, _ := now.at("spec", "cidr").(string)
		switch {
		case have == "":
		case o.Pool == "" || samePrefix(o.Pool, have):
			o.Pool = have
		default:
			return o, fmt.Errorf("IPPool %s has %s, and a pool keeps its CIDR: it cannot become %s, and nothing was changed; install without --pool, and for more addresses apply an IPPool of another name; or delete this one, which goes once no pod has an address of it, and then install with --pool",
				x.Name(), have, o.Pool)
		}
	}
	return o, nil
}

func samePrefix(a, b string) bool {
	p, err := netip.ParsePrefix(a)
	q, err2 := netip.ParsePrefix(b)
	return err == nil && err2 == nil && p == q
}

// get reads a resource; nil if the API server has none, or not its kind.
func (c *Cluster) get(ctx context.Context, o Object) (Object, error) {
	b, err := c.do(ctx, http.MethodGet, o.path(), nil)
	var refused *refusal
	if errors.As(err, &refused) && refused.code == http.StatusNotFound {
		return nil, nil
	}
	var now Object
	if err == nil {
		err = json.Unmarshal(b, &now)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", o.Kind(), o.Name(), err)
	}
	return now, nil
}
