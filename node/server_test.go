package node

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"weft/node/config"
)

// TestTCPHandlers: health and metrics, at two addresses or at one, and nothing else over TCP.
func TestTCPHandlers(t *testing.T) {
	for name, tc := range map[string]struct {
		health config.Health
		want   map[string]map[string]int
	}{
		"none": {config.Health{}, map[string]map[string]int{}},
		"two": {config.Health{Listen: "a:1", Metrics: "a:2"}, map[string]map[string]int{
			"a:1": {"/livez": 200, "/metrics": 404, "/status": 404, "/debug/pprof/": 404},
			"a:2": {"/livez": 404, "/metrics": 200, "/status": 404, "/": 404}}},
		"one": {config.Health{Listen: "a:1", Metrics: "a:1"}, map[string]map[string]int{
			"a:1": {"/livez": 200, "/metrics": 200, "/status": 404, "/plan/routing": 404, "/debug/pprof/": 404}}},
	} {
		s := &service{cfg: &config.Config{Health: tc.health}}
		s.metrics = newMetrics("test", func() int { return 0 }, func() map[string]int { return nil })
		got := s.tcpHandlers()
		if len(got) != len(tc.want) {
			t.Errorf("%s: addresses %v, want %d", name, slices.Collect(maps.Keys(got)), len(tc.want))
		}
		for addr, paths := range tc.want {
			for path, code := range paths {
				w := httptest.NewRecorder()
				got[addr].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				if w.Code != code {
					t.Errorf("%s: GET %s at %s: %d, want %d", name, path, addr, w.Code, code)
				}
			}
		}
	}
}
