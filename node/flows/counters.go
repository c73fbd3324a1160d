package flows

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// Counter is how many packets a rule, or the end of a tier, decided about since it was written, and their
// bytes. Packets of connections that were accepted before are not among them.
type Counter struct {
	Chain   string `json:"chain,omitempty"` // policy.ChainID; empty: Tag says what it was
	Rules   []int  `json:"rules,omitempty"` // that were counted together, in the list of the resource, from 0
	Tag     string `json:"tag"`             // policy.Tag
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Counters reads the counters of all rules in force: what a policy driver can do.
type Counters func(ctx context.Context) ([]Counter, error)

// CountersHandler serves the counters as a JSON list at GET /counters.
func CountersHandler(read Counters) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		list, err := read(req.Context())
		if err != nil {
			http.Error(w, fmt.Sprintf("read the rules' counters: %v", err), http.StatusServiceUnavailable)
			return
		}
		if list == nil {
			list = []Counter{}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	})
}
