package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// workstation is a program's home on a computer that has a kubeconfig and no node.
type workstation struct {
	*rig
	t   *testing.T
	env []string
}

func (r *rig) workstation(t *testing.T, role string) *workstation {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"kubectl-weft", "kubectl_complete-weft", "weft"} {
		if err := os.Symlink(manifests(t, "../bin/weft"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(kube.Binary(t, "kubectl"), filepath.Join(dir, "kubectl")); err != nil {
		t.Fatal(err)
	}
	return &workstation{r, t, []string{"PATH=" + dir + ":/usr/bin:/bin", "HOME=" + dir, "KUBECONFIG=" + r.Kubeconfig(t, role, "")}}
}

func (w *workstation) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/usr/bin/env", append(slices.Clone(w.env), args...)...)
	cmd.Env = []string{}
	return cmd
}

// run returns standard output, standard error and the exit code.
func (w *workstation) run(args ...string) (out, errs string, code int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patient(time.Minute))
	defer cancel()
	var o, e bytes.Buffer
	cmd := w.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("%v: %v", args, err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// says runs a command that ends well and has every pattern in what it prints.
func (w *workstation) says(command string, patterns ...string) string {
	w.t.Helper()
	out, errs, code := w.run(strings.Fields(command)...)
	for range 3 { // on a busy machine a node's answer, by way of API server and kubelet, may come too late
		if code == 0 || !strings.Contains(errs, "no answer within") {
			break
		}
		w.t.Logf("%s: %s", command, errs)
		out, errs, code = w.run(strings.Fields(command)...)
	}
	if code != 0 {
		w.t.Errorf("%s: exit code %d\n%s%s", command, code, out, errs)
	}
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(out) {
			w.t.Errorf("%s: nothing matches %q in\n%s%s", command, p, out, errs)
		}
	}
	return out
}

// fails runs a command that ends with an exit code and has every pattern in its errors.
func (w *workstation) fails(code int, command string, patterns ...string) string {
	w.t.Helper()
	out, errs, got := w.run(strings.Fields(command)...)
	if got != code {
		w.t.Errorf("%s: exit code %d, want %d\n%s%s", command, got, code, out, errs)
	}
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(errs) {
			w.t.Errorf("%s: nothing matches %q in the errors\n%s", command, p, errs)
		}
	}
	return out
}

// fromAfar asks the cluster's nodes from a computer that has a kubeconfig and nothing else.
func fromAfar(t *testing.T, r *rig, web []pod) {
	w := r.workstation(t, kube.Admin)
	w.says("weft status", `^NODE +SERVICE +ADDRESS`, `^node1 +ready +10\.78\.0\.1/24 +VXLAN IPv4 .*weft:latest`, `^node2 +ready `, `^2 nodes: 2 ready$`)
	w.says("weft status --details", `^node1 +ready +10\.78\.0\.1/24 +\d+ +\d+ +nftables, \d+ .* VXLAN \d`, `^node2 +ready `)
	w.says("weft status --node node2", `^Node +node2, ready`, `^Datastore +Kubernetes at `)
	w.says("weft plan routing --node node1", `via 10\.78\.0\.2`)
	w.says("weft bgp peers", `^NODE +PEER`, `^node1 +node2 `, `^node2 +node1 `)
	w.says("weft bgp routes", `^NODE +PREFIX`, `^node1 .* Local`, `^node2 .* Local`)
	w.says("weft peers", `^encryption is off`)
	w.says("weft ipam show", `10\.244\.0\.0/16`)
	w.says("weft ipam check")
	var nodes []struct{ Node, Error string }
	if err := json.Unmarshal([]byte(w.says("weft peers -o json")), &nodes); err != nil || len(nodes) != 2 || nodes[1].Node != "node2" || nodes[1].Error != "" {
		t.Errorf("weft peers -o json: %v, %v", nodes, err)
	}
	w.fails(1, "weft status --node nosuch", `find node nosuch: no node service runs there`)
	w.policy(web)
	w.mute()
	w.rights()
	w.plugin()
}

// policy has packets of both nodes denied, and asks why and which.
func (w *workstation) policy(web []pod) {
	t := w.t
	w.Apply(t, strings.ReplaceAll(closed, "closed", "afar"))
	w.start("afar", `, afar: "yes"`, []string{web[0].node, web[2].node}, "udp", web[1].ip+":7000", "40", "50ms")
	w.await("run=afar", 2, "over", isOver)
	w.start("still", `, afar: "yes"`, []string{web[0].node}, "udp", web[2].ip+":7000", "1000000", "50ms")
	w.await("run=still", 1, "ready", isReady)
	why := "weft why default/still-0 default/" + web[2].name + " udp/7000"
	w.says(why+" --counters", `denied`, `counted [1-9]\d* packets`)
	if out := w.says(why); strings.Contains(out, "not known") {
		t.Errorf("%s:\n%s", why, out)
	}
	out := w.says("weft flows --denied -o json")
	last, by := time.Time{}, map[string]int{}
	for l := range strings.Lines(out) {
		var f struct {
			Node string
			Time time.Time
		}
		if err := json.Unmarshal([]byte(l), &f); err != nil {
			t.Fatal(err)
		}
		if f.Time.Before(last) {
			t.Errorf("a flow of %s is before one of %s that was printed earlier", f.Time, last)
		}
		last = f.Time
		by[f.Node]++
	}
	t.Logf("denied packets by node: %v", by)
	if by[web[0].node] == 0 || by[web[2].node] == 0 {
		t.Errorf("denied packets by node: %v, want some of both", by)
	}
	w.says("weft flows --denied --node "+web[0].node, `^TIME +NODE +ACTION`, ` `+web[0].node+` +deny +udp +default/afar-0`)
	w.Kubectl(t, "delete", "pod", "still-0")
	w.follow(web)
	w.Kubectl(t, "delete", "networkpolicy", "afar")
}

// follow shows flows as they come, until interrupted: then nothing of it is left on the nodes.
func (w *workstation) follow(web []pod) {
	t := w.t
	file, err := os.Create(filepath.Join(t.TempDir(), "flows"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	out := func() string {
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cmd := w.command(context.Background(), "weft", "flows", "--denied", "-f")
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "both nodes are followed", func() bool {
		time.Sleep(50 * time.Millisecond)
		return w.asked() == 2
	})
	before := strings.Count(out(), "default/fresh-")
	w.start("fresh", `, afar: "yes"`, []string{web[0].node, web[2].node}, "udp", web[1].ip+":7000", "20", "50ms")
	testkit.Eventually(t, 20*time.Second, "flows of both nodes come", func() bool {
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(out(), "default/fresh-0") && strings.Contains(out(), "default/fresh-1")
	})
	if before != 0 {
		t.Errorf("%d flows of pods that were not there", before)
	}
	begin := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || time.Since(begin) > testkit.Patient(3*time.Second) {
		t.Errorf("interrupted: %v after %v; %s", err, time.Since(begin), out())
	}
	testkit.Eventually(t, 10*time.Second, "no node is asked any more", func() bool {
		time.Sleep(50 * time.Millisecond)
		return w.asked() == 0
	})
}

// processes are the command lines on a machine, by process.
func (w *workstation) processes(m *kube.Machine) map[string]string {
	w.t.Helper()
	out, err := m.Try(w.t, "sh", "-c", `for p in /proc/[0-9]*; do echo "${p#/proc/} $(tr '\0' ' ' <$p/cmdline 2>/dev/null)"; done`)
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]string{}
	for l := range strings.Lines(out) {
		pid, line, _ := strings.Cut(strings.TrimSpace(l), " ")
		all[pid] = line
	}
	return all
}

// asked is how many programs ask a node on behalf of somebody elsewhere.
func (w *workstation) asked() (n int) {
	for _, m := range w.Machines {
		for _, line := range w.processes(m) {
			if strings.HasPrefix(line, "/weft ask ") {
				n++
			}
		}
	}
	return n
}

// mute stops the node service of a machine: it is named, and the other answers.
func (w *workstation) mute() {
	t := w.t
	m := w.Machines[1]
	signal := func(name string) {
		for pid, line := range w.processes(m) {
			if strings.HasPrefix(line, "/weft node ") {
				if _, err := m.Try(t, "kill", "-"+name, pid); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	signal("STOP")
	defer signal("CONT")
	out := w.fails(1, "weft bgp routes --node-timeout 2s", `^weft: node2: no answer within 2s$`)
	if !strings.Contains(out, "node1 ") {
		t.Errorf("the other node is not shown:\n%s", out)
	}
	w.fails(1, "weft status --details --node-timeout 2s", `^weft: node2: no answer within 2s$`)
	w.fails(1, "weft peers --node node2 --node-timeout 2s", `^weft: ask node node2: no answer within 2s$`)
}

// rights are those that the manifests give people.
func (w *workstation) rights() {
	t := w.t
	bind := func(name string) string {
		return fmt.Sprintf(`---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: afar-%[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s}
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: nobody}]
`, name)
	}
	person := w.workstation(t, kube.Nobody)
	person.fails(1, "weft status", `refuses`)
	w.Apply(t, bind("view"))
	testkit.Eventually(t, 10*time.Second, "the role view reads this project's kinds", func() bool {
		time.Sleep(100 * time.Millisecond)
		_, _, code := person.run("weft", "status")
		return code == 0
	})
	person.says("weft status", `^node1 +ready `, `^2 nodes: 2 ready$`)
	person.fails(1, "weft bgp peers", `^weft: node1: .*cannot (get|create) resource "pods/exec".*the role weft-admin`)
	w.Apply(t, bind("weft-admin")+strings.NewReplacer("ClusterRoleBinding", "RoleBinding", "kind: ClusterRole,", "kind: Role,",
		"afar-weft-admin}", "afar, namespace: kube-system}").Replace(bind("weft-admin")))
	testkit.Eventually(t, 10*time.Second, "the role weft-admin asks nodes", func() bool {
		time.Sleep(100 * time.Millisecond)
		_, _, code := person.run("weft", "bgp", "peers")
		return code == 0
	})
}

// plugin runs it as kubectl does.
func (w *workstation) plugin() {
	w.says("kubectl weft status", `^2 nodes: 2 ready$`)
	w.says("kubectl weft bgp peers --node node1", `^node1 +node2 `)
}
