package policy

import (
	"testing"

	"weft/internal/testkit/allocs"
	"weft/model"
)

// One change among 500 policies and 2,000 endpoints, from the call to its Delta.
func TestAllocsOfOneChange(t *testing.T) {
	c := city{local: 50, remote: 2000, policies: 500}
	k := c.build(t)
	change := func(name string, limit float64, f func(i int) error) {
		t.Run(name, func(t *testing.T) {
			i := 0
			allocs.Most(t, limit, func() {
				if err := f(i); err != nil {
					t.Fatal(err)
				}
				if u := k.Flush(); u.Delta.Empty() {
					t.Fatalf("change %d changed nothing", i)
				}
				i++
			})
		})
	}
	var policies []*model.Policy
	var remotes []*model.RemoteEndpoint
	for i := range 21 {
		policies = append(policies, c.policy(i, 1))
		remotes = append(remotes, c.other(i*7, 1))
	}
	change("policy", 64, func(i int) error { return k.SetPolicy(policies[i]) })
	change("label of an endpoint", 9, func(i int) error { return k.SetRemote(remotes[i]) })
}
