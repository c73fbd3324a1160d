package kube

import (
	"errors"
	"net/http"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) { code := m.Run(); StopShared(); os.Exit(code) }

// The API server comes up with this project's kinds and roles: the node's role may read pools and not write
// them, a user without a role may do neither, and it is the same after a restart.
func TestClusterHasKindsAndRoles(t *testing.T) {
	begin := time.Now()
	c := Start(t)
	t.Logf("ready with kinds and roles after %v", time.Since(begin).Round(10*time.Millisecond))
	const pools = "/apis/projectcalico.org/v3/ippools"
	pool := map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": map[string]any{"name": "p"}, "spec": map[string]any{"cidr": "10.0.0.0/16"}}
	c.MustDo(t, http.MethodPost, pools, pool)
	for range 2 {
		for _, tc := range []struct {
			role, method, path string
			code               int // 0: done
		}{
			{Admin, http.MethodGet, pools + "/p", 0}, {Node, http.MethodGet, pools, 0}, {Nobody, http.MethodGet, pools, 403}, {Node, http.MethodDelete, pools + "/p", 403},
		} {
			_, err := c.Do(t.Context(), tc.role, tc.method, tc.path, nil)
			var refused *StatusError
			if code := 0; errors.As(err, &refused) {
				if code = refused.Code; code != tc.code {
					t.Errorf("%s by %s: %v, want %d", tc.method, tc.role, err, tc.code)
				}
			} else if err != nil || tc.code != 0 {
				t.Errorf("%s by %s: %v, want %d", tc.method, tc.role, err, tc.code)
			}
		}
		c.StopAPI()
		if err := c.StartAPI(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
