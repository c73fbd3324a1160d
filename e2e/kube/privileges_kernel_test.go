package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// confined is what the kernel says of processes of the image, by subcommand: the capabilities that they have, and those that
// they could ever get.
var confined = map[string]struct{ have, bound uint64 }{
	"node":                {1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN, 0},
	"keeper":              {1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE, 0},
	"bgp-speaker":         {1 << unix.CAP_NET_BIND_SERVICE, 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE},
	"wireguard-userspace": {1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE, 0},
}

// privileges compares what the kernel says of the processes on each machine with the manifests' promise: capabilities,
// the runtime's seccomp filter, no way to more, and a PID namespace of their own.
func privileges(t *testing.T, r *rig, _ []pod) {
	for _, m := range r.Machines {
		out, err := m.Try(t, "bash", "-c", `readlink /proc/1/ns/pid; for p in $(pgrep -x weft); do
			echo "$(tr '\0' ' ' </proc/$p/cmdline | cut -d' ' -f2) $(readlink /proc/$p/ns/pid) $(sed -nE 's/^(CapEff|CapPrm|CapInh|CapBnd|CapAmb|NoNewPrivs|Seccomp):\s*/\1=/p' /proc/$p/status | tr '\n' ' ')"; done`)
		if err != nil {
			t.Fatal(err)
		}
		host, rest, _ := strings.Cut(out, "\n")
		namespace := map[string]string{}
		for l := range strings.Lines(rest) {
			f := strings.Fields(l)
			if len(f) < 3 || confined[f[0]].have == 0 {
				continue // weft controllers has none, and is nobody
			}
			c := confined[f[0]]
			if c.bound == 0 {
				c.bound = c.have
			}
			want := fmt.Sprintf("CapInh=%016x CapPrm=%016x CapEff=%016x CapBnd=%016x CapAmb=%016x NoNewPrivs=1 Seccomp=2", 0, c.have, c.have, c.bound, 0)
			if got := strings.Join(f[2:], " "); got != want {
				t.Errorf("%s: weft %s is\n%s, want\n%s", m.Name, f[0], got, want)
			}
			namespace[f[0]] = f[1]
		}
		if len(namespace) != len(confined) {
			t.Errorf("%s has the processes %v, want all of %d:\n%s", m.Name, namespace, len(confined), out)
		}
		if n := namespace["node"]; n == host || n == namespace["keeper"] || namespace["bgp-speaker"] != namespace["keeper"] || namespace["keeper"] == host {
			t.Errorf("%s: PID namespaces are %v, the host's is %s: want one of the node service and one of the keeper", m.Name, namespace, host)
		}
	}
}

// needed are the privileges, with what a node service says when it has to do without one.
var needed = []struct {
	from, capability, mount string // which DaemonSet loses what
	alone                   bool   // there is no keeper either
	pod                     bool   // it takes a new pod to be seen
	plugin                  bool   // it takes a plugin that is to be put there
	says                    string
}{
	{from: "weft-node", capability: "NET_ADMIN", says: `find the network namespace of a netlink socket: operation not permitted`},
	{from: "weft-node", capability: "SYS_ADMIN", says: `setns: operation not permitted`},
	{from: "weft-node", capability: "NET_RAW", says: `open a raw socket of IP protocol 4, to learn the MTU of paths: operation not permitted`},
	{from: "weft-node", capability: "NET_BIND_SERVICE", alone: true, says: `listen tcp4 0.0.0.0:179: bind: permission denied`},
	{from: "weft-node", mount: "sysctls", pod: true, says: `write .*: read-only file system`},
	{from: "weft-node", mount: "tun", says: `open /dev/net/tun: there is none`},
	{from: "weft-keeper", capability: "NET_ADMIN", says: `mark link weft-wg: operation not permitted`},
	{from: "weft-keeper", capability: "NET_BIND_SERVICE", says: `listen tcp4 0.0.0.0:179: bind: permission denied`},
	{from: "weft-keeper", mount: "tun", says: `start the process of WireGuard device weft-wg: .*/dev/net/tun`},
	{from: "weft-node", capability: "DAC_OVERRIDE", plugin: true, says: `install the CNI plugin: open /opt/cni/bin/.*: permission denied`},
}

// Each privilege of the manifests is taken away once, where IPIP, BGP and WireGuard are all in use, and is missed.
func TestPrivilegesAreNeeded(t *testing.T) {
	if testing.Short() {
		t.Skip("replaces the node service ten times")
	}
	testkit.LeakCheck(t)
	r := install(t, kube.StartWhole(t), "bgp", "nftables")
	r.Kubectl(t, "patch", "ippool", "default-ipv4-ippool", "--type=merge", "-p", `{"spec":{"ipipMode":"Always"}}`)
	r.Apply(t, `{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {wireguardEnabled: true}}`)
	r.web()
	r.awaitPath("wireguard")
	r.foreignFolders()
	r.rollout() // from here on it is as after any start
	for _, f := range []string{"/opt/cni/bin/weft-cni", "/etc/cni/net.d/10-weft.conflist"} {
		testkit.Eventually(t, 20*time.Second, f+" is in another user's folder", func() bool { return r.everywhere("test", "-e", f) == nil })
	}
	testkit.Eventually(t, 20*time.Second, "nothing is missed with all privileges", func() bool {
		time.Sleep(200 * time.Millisecond)
		out := r.Kubectl(t, "-n", "kube-system", "logs", "-l", "k8s-app=weft-node", "--tail=-1")
		for _, n := range needed {
			if regexp.MustCompile(n.says).MatchString(out) {
				t.Fatalf("%+v is missed while it is there:\n%s", n, out)
			}
		}
		return strings.Contains(out, "adopted the process of WireGuard device weft-wg") && strings.Contains(out, "adopted the process of the BGP speaker")
	})
	sets := map[string]string{"weft-node": "", "weft-keeper": ""}
	for name := range sets {
		sets[name] = r.Kubectl(t, "-n", "kube-system", "get", "daemonset", name, "-o", "json")
	}
	for i, n := range needed {
		begin := time.Now()
		for name, text := range sets {
			if _, err := r.TryKubectl(t, without(t, text, name, n.from, n.capability, n.mount, n.alone), "replace", "-f", "-"); err != nil {
				t.Fatal(err)
			}
		}
		if n.plugin {
			if err := r.everywhere("rm", "-f", "/opt/cni/bin/weft-cni"); err != nil {
				t.Fatal(err)
			}
		}
		r.Kubectl(t, "-n", "kube-system", "delete", "pods", "-l", "k8s-app in (weft-node, weft-keeper)", "--grace-period=1")
		if n.pod {
			r.start(fmt.Sprintf("new%d", i), "", []string{r.Machines[0].Name}, "serve", ":7000")
		}
		says := regexp.MustCompile(n.says)
		testkit.Eventually(t, 45*time.Second, fmt.Sprintf("%s misses %s", n.from, n.capability+n.mount), func() bool {
			time.Sleep(300 * time.Millisecond)
			now, _ := r.TryKubectl(t, "", "-n", "kube-system", "logs", "-l", "k8s-app=weft-node", "--tail=-1") // its container may be starting
			events, _ := r.TryKubectl(t, "", "get", "events", "-o", `jsonpath={range .items[*]}{.message}{"\n"}{end}`)
			line := says.FindString(now + events)
			if line != "" {
				t.Logf("%s without %s, after %v: %s", n.from, n.capability+n.mount, time.Since(begin).Round(100*time.Millisecond), line)
			}
			return line != ""
		})
	}
}

// foreignFolders gives the folders of CNI to another user, as some distributions' images have them, and empties them of
// what is ours.
func (r *rig) foreignFolders() {
	r.t.Helper()
	for _, command := range []string{"chown 1000 /opt/cni/bin /etc/cni/net.d", "chmod 755 /opt/cni/bin /etc/cni/net.d",
		"rm -f /opt/cni/bin/weft-cni /etc/cni/net.d/10-weft.conflist"} {
		if err := r.everywhere(strings.Fields(command)...); err != nil {
			r.t.Fatal(err)
		}
	}
}

// everywhere runs a command on every machine.
func (r *rig) everywhere(command ...string) error {
	var errs []error
	for _, m := range r.Machines {
		_, err := m.Try(r.t, command...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// without is a DaemonSet as it was made, less what from loses if that is its name.
func without(t *testing.T, text, name, from, capability, mount string, alone bool) string {
	t.Helper()
	var set map[string]any
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		t.Fatal(err)
	}
	delete(set["metadata"].(map[string]any), "resourceVersion")
	pod := set["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	container := pod["containers"].([]any)[0].(map[string]any)
	capabilities := container["securityContext"].(map[string]any)["capabilities"].(map[string]any)
	lost := 0
	less := func(all any, is func(any) bool) []any {
		list := all.([]any)
		left := slices.DeleteFunc(slices.Clone(list), is)
		lost += len(list) - len(left)
		return left
	}
	if name == from {
		capabilities["add"] = less(capabilities["add"], func(c any) bool { return c == capability })
		container["volumeMounts"] = less(container["volumeMounts"], func(v any) bool { return v.(map[string]any)["name"] == mount })
		if lost != 1 {
			t.Fatalf("%s has %d of %q%q to lose", name, lost, capability, mount)
		}
	}
	if alone && name == "weft-keeper" {
		pod["nodeSelector"] = map[string]any{"weft.io/none": "here"}
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
