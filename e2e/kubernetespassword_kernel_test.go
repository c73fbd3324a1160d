package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testkit"
	testkube "weft/internal/testkit/kube"
	"weft/internal/testkit/router"
	"weft/node/status"
)

const secretsPath = "/api/v1/namespaces/kube-system/secrets"

// A node service with the identity that the manifests give it reads the password of a BGPPeer from the Secret bgp-secrets
// and follows its change. It may read no other Secret, and write none.
func TestKubernetesBGPPassword(t *testing.T) {
	w := testkube.StartHosts(t)
	w.Install(t)
	post := func(path, kind, name string, more map[string]any) {
		t.Helper()
		o := map[string]any{"kind": kind, "metadata": map[string]any{"name": name}}
		for k, v := range more {
			o[k] = v
		}
		w.MustDo(t, http.MethodPost, path, o)
	}
	v3path := func(kind string) string { return "/apis/projectcalico.org/v3/" + kind }
	ours := func(spec map[string]any) map[string]any {
		return map[string]any{"apiVersion": "projectcalico.org/v3", "spec": spec}
	}
	node, address := w.AddHost(t, 0)
	outside, neighbour := w.AddHost(t, 1)
	post("/api/v1/nodes", "Node", "host0", nil)
	w.MustDo(t, http.MethodPatch, "/api/v1/nodes/host0/status", map[string]any{"status": map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": address.String()}}}})
	post(v3path("ippools"), "IPPool", "p", ours(map[string]any{"cidr": "10.9.0.0/16"}))
	post(v3path("bgppeers"), "BGPPeer", "router", ours(map[string]any{"peerIP": neighbour.String(), "asNumber": 64513,
		"password": map[string]any{"secretKeyRef": map[string]any{"name": "bgp-secrets", "key": "router"}}}))
	post(secretsPath, "Secret", "other", map[string]any{"stringData": map[string]any{"router": "c4nary"}})

	t.Cleanup(func() { // the speaker outlives the node service
		pids, err := exec.Command("ip", "netns", "pids", node.Name).Output()
		if err != nil {
			t.Error(err)
		}
		for _, pid := range strings.Fields(string(pids)) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	})
	bearer := w.NodeToken(t, "host0")
	run := startNodeService(t, node, "--node-name", "host0", "--datastore", "kubernetes", "--kubeconfig", w.KubeconfigOf(t, bearer, ""), "--health-listen=")
	config := func(password string) string {
		return fmt.Sprintf("router id %v;\nprotocol device {}\nprotocol bgp node { local %v as 64513; neighbor %v as 64512; connect retry time 1; password %q; ipv4 { import all; export none; }; }\n",
			neighbour, neighbour, address, password)
	}
	bird := router.StartBird(t, outside, config("one"))
	says := func(what string) {
		t.Helper()
		text := ""
		testkit.Eventually(t, 60*time.Second, "the node says "+what, func() bool {
			time.Sleep(100 * time.Millisecond)
			st, err := status.Fetch(t.Context(), run)
			b, bad := json.Marshal(st)
			if text = string(b); bad != nil {
				t.Fatal(bad)
			}
			return err == nil && strings.Contains(text, what)
		})
		if strings.Contains(text, "c4nary") {
			t.Error("a password is in the node's status")
		}
	}
	up := func(what string) {
		t.Helper()
		took := testkit.Eventually(t, 60*time.Second, what, func() bool { time.Sleep(50 * time.Millisecond); return bird.Established(t, "node") })
		t.Logf("the session is up %v after %s", took.Round(10*time.Millisecond), what)
	}
	says(`no key \"router\" in Secret bgp-secrets`)
	post(secretsPath, "Secret", "bgp-secrets", map[string]any{"stringData": map[string]any{"router": "one"}})
	up("the Secret came")
	bird.Reconfigure(t, config("two"))
	says("the two ends have different passwords")
	if bird.Established(t, "node") {
		t.Error("the session is up although the two ends have different passwords")
	}
	w.MustDo(t, http.MethodPatch, secretsPath+"/bgp-secrets", map[string]any{"stringData": map[string]any{"router": "two"}})
	up("the Secret changed")
	onlyThatSecret(t, w, bearer)
}

// onlyThatSecret tries what the identity may not.
func onlyThatSecret(t *testing.T, w *testkube.Whole, bearer string) {
	t.Helper()
	const whole, one = "/api/v1/secrets", "?fieldSelector=metadata.name%3D"
	elsewhere := strings.Replace(secretsPath, "kube-system", "default", 1)
	refused := 0
	cases := []struct {
		method, path string
		code         int
	}{
		{http.MethodGet, secretsPath + one + "bgp-secrets", 0}, // what it does
		{http.MethodGet, secretsPath + one + "other", http.StatusForbidden},
		{http.MethodGet, secretsPath + one + "other&watch=1", http.StatusForbidden},
		{http.MethodGet, secretsPath + "/other", http.StatusForbidden},
		{http.MethodGet, secretsPath, http.StatusForbidden},
		{http.MethodGet, secretsPath + "?watch=1", http.StatusForbidden},
		{http.MethodGet, whole, http.StatusForbidden},
		{http.MethodGet, whole + one + "bgp-secrets", http.StatusForbidden},
		{http.MethodGet, elsewhere + one + "bgp-secrets", http.StatusForbidden},
		{http.MethodGet, elsewhere, http.StatusForbidden},
		{http.MethodPatch, secretsPath + "/bgp-secrets", http.StatusForbidden},
		{http.MethodDelete, secretsPath + "/bgp-secrets", http.StatusForbidden},
		{http.MethodDelete, secretsPath + "/other", http.StatusForbidden},
	}
	for _, c := range cases {
		var body any
		if c.method == http.MethodPatch {
			body = map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}}
		}
		dry := c.path
		if c.method != http.MethodGet {
			dry += "?dryRun=All"
		}
		_, err := w.DoAs(t.Context(), bearer, c.method, dry, body)
		code := 0
		if no := (*testkube.StatusError)(nil); errors.As(err, &no) {
			code = no.Code
		} else if err != nil {
			t.Fatal(err)
		}
		if code != c.code {
			t.Errorf("%s %s by a node service was answered %d, want %d (0: done)", c.method, c.path, code, c.code)
		}
		if code == http.StatusForbidden {
			refused++
		}
		if strings.Contains(c.path, "watch") {
			continue // which does not end
		}
		if _, err := w.Do(t.Context(), testkube.Admin, c.method, dry, body); err != nil { // the control
			t.Errorf("%s %s by an administrator: %v", c.method, c.path, err)
		}
	}
	t.Logf("%d of %d requests for Secrets were refused", refused, len(cases))
	own := 0
	for _, call := range w.Calls(t) {
		if call.Resource == "secrets" && call.Code == http.StatusOK {
			own++
		}
	}
	if own < 3 { // the node service's list and watch, and the first of the above
		t.Errorf("of the requests for Secrets only %d were answered", own)
	}
}
