package kube

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// auditPolicy has the API server write down what the node service asks, and nothing of others.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["` + Node + `", "` + ServiceAccount + `"]
- level: None
`

// ServiceAccount is who the node service is where it was installed by the manifests.
const ServiceAccount = "system:serviceaccount:kube-system:weft-node"

// Call is one request that the API server answered to the node service; of a watch, that it began.
type Call struct {
	User, Verb string // get, list, watch, create, update, patch, delete
	Group      string // of the API; empty: Kubernetes' own
	Resource   string // with its subresource, as in "pods/status"; empty: something else, such as /version
	Name       string // empty: of several
	URI        string
	Code       int       // of HTTP
	Reason     string    // of a refusal
	At         time.Time // it came
	Took       time.Duration
	SourceIP   string // of who asked
}

// Calls returns what the node service asked so far, in the order of the answers. The API server writes it down before it
// answers.
func (c *Cluster) Calls(t testing.TB) []Call {
	t.Helper()
	f, err := os.Open(filepath.Join(c.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []Call
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Stage, Verb, RequestURI                  string
			User                                     struct{ Username string }
			SourceIPs                                []string
			ObjectRef                                struct{ APIGroup, Resource, Subresource, Name string }
			RequestReceivedTimestamp, StageTimestamp time.Time
			ResponseStatus                           struct {
				Code    int
				Message string
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the last line may not be whole yet
		}
		if begins := e.Stage == "ResponseStarted"; begins != (e.Verb == "watch") {
			continue
		}
		call := Call{User: e.User.Username, Verb: e.Verb, Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, Name: e.ObjectRef.Name, URI: e.RequestURI,
			Code: e.ResponseStatus.Code, Reason: e.ResponseStatus.Message, At: e.RequestReceivedTimestamp, Took: e.StageTimestamp.Sub(e.RequestReceivedTimestamp), SourceIP: strings.Join(e.SourceIPs, " ")}
		if e.ObjectRef.Subresource != "" {
			call.Resource += "/" + e.ObjectRef.Subresource
		}
		out = append(out, call)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}
