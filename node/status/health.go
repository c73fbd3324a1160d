package status

import (
	"fmt"
	"net/http"
	"strings"
)

// AddHealth serves /livez, and /readyz by what checks tells.
func AddHealth(mux *http.ServeMux, checks func() []Check) {
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		code := http.StatusOK
		var b strings.Builder
		for _, c := range checks() {
			mark := "[+]" // as Kubernetes' own components print their checks
			if !c.OK {
				mark, code = "[-]", http.StatusServiceUnavailable
			}
			if _, verbose := r.URL.Query()["verbose"]; verbose || !c.OK {
				fmt.Fprintf(&b, "%s%s: %s\n", mark, c.Name, c.Reason)
			}
		}
		if b.Len() == 0 {
			b.WriteString("ok\n")
		}
		w.WriteHeader(code)
		fmt.Fprint(w, b.String())
	})
}
