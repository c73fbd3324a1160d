package conformance

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/network-policy-api/conformance"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// rig is a cluster of two machines with this project, and with the programs that hack/conformance.sh builds.
type rig struct {
	*kube.Whole
	bin, kubeconfig string
}

// The suites pass as a whole; and the first one does not where nobody enforces what it writes.
func TestNetworkPolicyConformance(t *testing.T) {
	testkit.LeakCheck(t)
	r := start(t)
	t.Run("ClusterNetworkPolicy", r.clusterNetworkPolicy)
	t.Run("control", r.control)
	r.Kubectl(t, "delete", "namespace", "--wait=false", "-l", "conformance-house")
	t.Run("NetworkPolicy", r.networkPolicy)
}

func start(t *testing.T) *rig {
	images := []string{kube.Image(t, "weft"), kube.Image(t, "testpod"), kube.Image(t, "agnhost")}
	w := kube.StartWhole(t)
	for range 2 {
		w.AddMachine(t, "nftables", images...)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.Logs(t)
		}
	})
	r := &rig{w, filepath.Dir(images[0]), w.Kubeconfig(t, kube.Admin, "")}
	w.Kubectl(t, "apply", "-f", filepath.Join(r.bin, "cnp-crd.yaml"))
	w.InstallByReadme(t)
	r.nameImages(t)
	return r
}

// nameImages gives the image of the suites' pods the names that the suites have for it: nothing is pulled.
func (r *rig) nameImages(t *testing.T) {
	t.Helper()
	names := map[string]bool{}
	b, err := conformance.Manifests.ReadFile("base/manifests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`image: (\S+)`).FindAllSubmatch(b, -1) {
		names[string(m[1])] = true
	}
	out, err := exec.Command(filepath.Join(r.bin, "netpol"), "-print-image").Output()
	if err != nil {
		t.Fatal(err)
	}
	names[strings.TrimSpace(string(out))] = true
	for _, m := range r.Machines {
		for name := range names {
			if _, err := m.Try(t, "ctr", "-n", "k8s.io", "images", "tag", "localhost/agnhost:1", name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// suite runs the conformance suite of ClusterNetworkPolicy, and returns how its tests ended, by their names.
func (r *rig) suite(t *testing.T, run string) (ended map[string]string, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "cnp.test"), "-test.v", "-test.timeout=20m", "-test.run="+run,
		"-all-features", "-cleanup-base-resources=false")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.kubeconfig)
	out, err := cmd.CombinedOutput()
	if len(out) == 0 {
		t.Fatalf("the suite said nothing: %v", err)
	}
	ended = map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^    --- (\w+): TestConformance/(\w+) `).FindAllSubmatch(out, -1) {
		ended[string(m[2])] = string(m[1])
	}
	return ended, string(out)
}

// clusterNetworkPolicy wants every test passed that the suite has, those of features that are not standard yet too.
func (r *rig) clusterNetworkPolicy(t *testing.T) {
	has := map[string]bool{}
	files, err := conformance.Manifests.ReadDir("tests")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := conformance.Manifests.ReadFile("tests/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`ShortName:\s+"(\w+)"`).FindAllSubmatch(b, -1) {
			has[string(m[1])] = true
		}
	}
	if len(has) < 24 {
		t.Errorf("the suite has %d tests, want at least 24", len(has))
	}
	begin := time.Now()
	ended, out := r.suite(t, "TestConformance$")
	passed := 0
	for name := range has {
		if ended[name] == "PASS" {
			passed++
		} else {
			t.Errorf("%s ended as %q", name, ended[name])
		}
	}
	t.Logf("%d of %d tests of the conformance suite of ClusterNetworkPolicy passed, in %v", passed, len(has), time.Since(begin).Round(time.Second))
	if len(ended) != len(has) {
		t.Errorf("%d of %d tests ran, want all", len(ended), len(has))
	}
	if t.Failed() {
		t.Log(out)
	}
}

// control takes the node service away: a policy that is written then is in no kernel, and the suite must say so.
func (r *rig) control(t *testing.T) {
	place := func(selector string) {
		r.Kubectl(t, "-n", "kube-system", "patch", "daemonset", "weft-node", "--type=merge", "-p", `{"spec":{"template":{"spec":{"nodeSelector":`+selector+`}}}}`)
	}
	place(`{"nowhere":"yes"}`)
	testkit.Eventually(t, time.Minute, "the node service has ended", func() bool {
		return strings.TrimSpace(r.Kubectl(t, "-n", "kube-system", "get", "pods", "-l", "k8s-app=weft-node", "-o", "name")) == ""
	})
	const one = "CNPAdminTierIngressNamedPort"
	if ended, out := r.suite(t, "TestConformance$/"+one+"$"); ended[one] != "FAIL" {
		t.Errorf("%s ended as %q where nobody enforces policy, want FAIL:\n%s", one, ended[one], out)
	}
	place(`{"nowhere":null}`)
	r.Kubectl(t, "-n", "kube-system", "rollout", "status", "daemonset/weft-node", "--timeout=120s")
}

// report is what ginkgo writes as JUnit.
type report struct {
	Suites []struct {
		Cases []struct {
			Name    string `xml:"name,attr"`
			Status  string `xml:"status,attr"`
			Failure string `xml:"failure"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// networkPolicy runs Kubernetes' end-to-end specs, some at a time: most of their time they wait.
func (r *rig) networkPolicy(t *testing.T) {
	const parts = 3
	begin := time.Now()
	outputs, reports := make([]string, parts), make([]report, parts)
	var done sync.WaitGroup
	for i := range parts {
		done.Go(func() {
			file := filepath.Join(t.TempDir(), "report.xml")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
			defer cancel()
			out, _ := exec.CommandContext(ctx, filepath.Join(r.bin, "netpol"), "-kubeconfig="+r.kubeconfig, "-provider=skeleton",
				fmt.Sprintf("-part=%d/%d", i, parts), "-ginkgo.no-color", "-ginkgo.junit-report="+file).CombinedOutput()
			outputs[i] = string(out)
			if b, err := os.ReadFile(file); err == nil {
				_ = xml.Unmarshal(b, &reports[i]) // what is missing is counted below
			}
		})
	}
	done.Wait()
	ended, count := map[string]string{}, map[string]int{}
	for i := range parts {
		for _, s := range reports[i].Suites {
			for _, c := range s.Cases {
				if !strings.HasPrefix(c.Name, "[It]") {
					continue
				}
				if c.Status != "skipped" || ended[c.Name] == "" {
					ended[c.Name] = c.Status
				}
				if c.Status == "failed" {
					t.Errorf("%s: %s", c.Name, c.Failure)
				}
			}
		}
	}
	for name, status := range ended {
		if count[status]++; status == "skipped" {
			t.Errorf("not run: %s", name)
		}
	}
	t.Logf("%d of %d of Kubernetes' specs of network policy passed, in %v: %v", count["passed"], len(ended), time.Since(begin).Round(time.Second), count)
	if len(ended) < 50 || count["passed"] != len(ended) {
		t.Errorf("%d of %d specs passed, want all, and at least 50", count["passed"], len(ended))
	}
	if t.Failed() {
		for _, out := range outputs {
			t.Log(out[max(0, len(out)-20000):])
		}
	}
}
