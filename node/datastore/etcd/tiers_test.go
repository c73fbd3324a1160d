package etcd

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

func tier(name string) *v3.Tier {
	t := &v3.Tier{}
	t.Name = name
	return t
}

func policyIn(tier, name string) *v3.GlobalNetworkPolicy {
	p := &v3.GlobalNetworkPolicy{}
	p.Name, p.Spec.Tier = name, tier
	return p
}

// A policy's tier is there, and a tier with policies stays.
func TestTiers(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	refused := func(what string, err error, words ...string) {
		t.Helper()
		if !errors.Is(err, datastore.ErrInvalid) {
			t.Errorf("%s: %v; want it refused", what, err)
		}
		for _, w := range words {
			if !strings.Contains(fmt.Sprint(err), w) {
				t.Errorf("%s: %v; want it to say %q", what, err, w)
			}
		}
	}
	for _, builtin := range []string{"default", "kube-admin", "kube-baseline", ""} {
		must[v3.Object](t)(s.Create(ctx, policyIn(builtin, "in-"+builtin+"x")))
	}
	_, err := s.Create(ctx, policyIn("security", "a"))
	refused("a policy of no tier", err, `spec.tier: Invalid value: "security"`, "create it first")
	security := must[v3.Object](t)(s.Create(ctx, tier("security")))
	must[v3.Object](t)(s.Create(ctx, policyIn("security", "a")))
	staged := &v3.StagedNetworkPolicy{}
	staged.Name, staged.Namespace, staged.Spec.Tier = "b", "shop", "security"
	must[v3.Object](t)(s.Create(ctx, staged))
	_, err = s.Update(ctx, policyIn("elsewhere", "a"))
	refused("a policy moved to no tier", err, "elsewhere")

	key := datastore.Key{Kind: v3.KindTier, Name: "security"}
	refused("delete of a tier in use", s.Delete(ctx, key, datastore.Precondition{}), "2 in all (GlobalNetworkPolicy a, StagedNetworkPolicy shop/b)")
	must[v3.Object](t)(s.Update(ctx, policyIn("default", "a")))
	if err := s.Delete(ctx, datastore.KeyOf(must[v3.Object](t)(s.Get(ctx, datastore.Key{Kind: v3.KindStagedNetworkPolicy, Namespace: "shop", Name: "b"}))), datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, key, datastore.Precondition{UID: "another"}); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("delete of another UID: %v", err)
	}
	if err := s.Delete(ctx, key, datastore.Precondition{ResourceVersion: "1"}); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("delete of another version: %v", err)
	}
	if err := s.Delete(ctx, key, datastore.Precondition{UID: string(security.GetUID()), ResourceVersion: security.GetResourceVersion()}); err != nil {
		t.Errorf("delete of an empty tier: %v", err)
	}
	if err := s.Delete(ctx, key, datastore.Precondition{}); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("delete of a tier that is gone: %v", err)
	}
	must[v3.Object](t)(s.Create(ctx, tier("default")))
	refused("delete of a built-in tier", s.Delete(ctx, datastore.Key{Kind: v3.KindTier, Name: "default"}, datastore.Precondition{}), "built in")
}

// However a tier's deletion and the creation of policies in it meet, no policy is left without a tier.
func TestTierDeletedWhilePoliciesCome(t *testing.T) {
	const rounds, writers = 25, 8
	ctx, s := t.Context(), testStore(t)
	key := datastore.Key{Kind: v3.KindTier, Name: "security"}
	deleted, created := 0, 0
	round := 0
	for ; round < rounds || (deleted == 0 || created == 0) && round < 20*rounds; round++ {
		if _, err := s.Create(ctx, tier("security")); err != nil && !errors.Is(err, datastore.ErrAlreadyExists) {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		made := make([]bool, writers)
		gone := false
		for i := range writers {
			wg.Go(func() {
				_, err := s.Create(ctx, policyIn("security", fmt.Sprintf("r%d-%d", round, i)))
				if made[i] = err == nil; !made[i] && !errors.Is(err, datastore.ErrInvalid) {
					t.Errorf("create: %v", err)
				}
			})
			if i == round%writers {
				wg.Go(func() {
					err := s.Delete(ctx, key, datastore.Precondition{})
					if gone = err == nil; !gone && !errors.Is(err, datastore.ErrInvalid) {
						t.Errorf("delete: %v", err)
					}
				})
			}
		}
		wg.Wait()
		for i, m := range made {
			if !m {
				continue
			}
			created++
			if gone {
				t.Errorf("round %d: the tier is deleted and has policy %d", round, i)
			}
			if err := s.Delete(ctx, datastore.Key{Kind: v3.KindGlobalNetworkPolicy, Name: fmt.Sprintf("r%d-%d", round, i)}, datastore.Precondition{}); err != nil {
				t.Error(err)
			}
		}
		if gone {
			deleted++
		}
	}
	t.Logf("%d of %d tiers were deleted, %d of %d policies created", deleted, round, created, round*writers)
	if deleted == 0 || created == 0 {
		t.Error("want some of each, else the two never met")
	}
}
