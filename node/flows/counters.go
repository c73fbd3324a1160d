package flows

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// Counter is how many packets a rule matched since it was written, and their bytes. Packets of
// connections that were accepted before are not among them.
type Counter struct {
	Chain   string `json:"chain"` // policy.ChainID
	Rule    int    `json:"rule"`  // in the list of the resource, from 0
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
