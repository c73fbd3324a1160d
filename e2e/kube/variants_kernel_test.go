package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

const twoFamilies = `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: "fd44::/48", vxlanMode: Always, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: special}
spec: {cidr: 10.245.0.0/24, vxlanMode: Always, natOutgoing: true, assignmentMode: Manual}
---
apiVersion: v1
kind: Service
metadata: {name: both}
spec: {selector: {app: web}, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.7.8, clusterIPs: [10.96.7.8, "fd96::708"], ports: [{port: 80, targetPort: 7000}]}
`

// A cluster of both families whose service proxy is iptables: pods have both addresses, talk by both, across nodes and
// through Services, and policy closes both. What annotations ask for they get, host ports and bandwidths too.
func TestVariants(t *testing.T) {
	testkit.LeakCheck(t)
	r := install(t, kube.StartDual(t), "vxlan", "iptables")
	r.Apply(t, twoFamilies)
	for _, m := range r.Machines {
		testkit.Eventually(t, 20*time.Second, m.Name+" has tunnels of both families", func() bool {
			out, err := m.Try(t, "ip", "-6", "route", "show", "root", "fd44::/48")
			_, err6 := m.Try(t, "ip", "link", "show", "weft-vxlan-v6")
			return err == nil && err6 == nil && out != ""
		})
	}
	web := r.web()
	for _, part := range []struct {
		name string
		test func(*testing.T, *rig, []pod)
	}{
		{"dual", bothCarry}, {"policy", bothClose}, {"annotations", annotated}, {"host port", hostPort}, {"bandwidth", bandwidth},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.test(t, &rig{r.Whole, t, r.t}, web)
		})
	}
}

// addresses are those of a pod, IPv4 first.
func (r *rig) addresses(name string) (v4, v6 string) {
	r.t.Helper()
	for _, f := range strings.Fields(r.Kubectl(r.t, "get", "pod", name, "-o", "jsonpath={.status.podIPs[*].ip}")) {
		if a, err := netip.ParseAddr(f); err == nil && a.Is4() {
			v4 = f
		} else {
			v6 = f
		}
	}
	return v4, v6
}

// udp sends packets from a pod.
func (r *rig) udp(from, to string, n int) (c counts) {
	r.t.Helper()
	out := r.Kubectl(r.t, "exec", from, "--", "/testpod", "udp", to, fmt.Sprint(n), "1ms")
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func bothCarry(t *testing.T, r *rig, web []pod) {
	sent, answered := map[string]int{}, map[string]int{}
	for _, from := range []pod{web[0], web[2]} {
		for _, to := range web {
			v4, v6 := r.addresses(to.name)
			if !strings.HasPrefix(v4, "10.244.") || !strings.HasPrefix(v6, "fd44:") {
				t.Fatalf("pod %s has the addresses %q and %q, want one of each pool", to.name, v4, v6)
			}
			if from == to {
				continue
			}
			for family, address := range map[string]string{"IPv4": v4 + ":7000", "IPv6": "[" + v6 + "]:7000"} {
				c := r.udp(from.name, address, 200)
				sent[family], answered[family] = sent[family]+c.Sent, answered[family]+c.Answered
			}
		}
		for _, url := range []string{"http://10.96.7.8/", "http://[fd96::708]/"} {
			by := map[string]int{}
			if err := json.Unmarshal([]byte(r.Kubectl(t, "exec", from.name, "--", "/testpod", "http", url, "100")), &by); err != nil {
				t.Fatal(err)
			}
			for _, p := range web {
				if by[p.name] == 0 {
					t.Errorf("from %s: pod %s answered none of 100 requests to %s: %v", from.node, p.name, url, by)
				}
			}
		}
	}
	t.Logf("answered by IPv4 %d of %d packets, by IPv6 %d of %d", answered["IPv4"], sent["IPv4"], answered["IPv6"], sent["IPv6"])
	for _, family := range []string{"IPv4", "IPv6"} {
		if sent[family] != 1200 || answered[family] != 1200 {
			t.Errorf("%s: %d of %d packets were answered, want all of 1200", family, answered[family], sent[family])
		}
	}
}

func bothClose(t *testing.T, r *rig, web []pod) {
	r.Apply(t, closed)
	r.start("walls", `, closed: "yes"`, []string{web[0].node, web[2].node}, "serve", ":7000")
	r.start("doors", "", []string{web[0].node, web[2].node}, "serve", ":7000")
	for _, c := range []struct {
		run  string
		want int
	}{{"walls", 0}, {"doors", 400}} {
		got := map[string]int{}
		for _, p := range r.await("run="+c.run, 2, "ready", isReady) {
			v4, v6 := r.addresses(p.name)
			for _, from := range []pod{web[0], web[2]} {
				got["IPv4"] += r.udp(from.name, v4+":7000", 100).Answered
				got["IPv6"] += r.udp(from.name, "["+v6+"]:7000", 100).Answered
			}
		}
		t.Logf("%s answered %d packets by IPv4 and %d by IPv6, of 400 each", c.run, got["IPv4"], got["IPv6"])
		if got["IPv4"] != c.want || got["IPv6"] != c.want {
			t.Errorf("%s answered %v of 400 packets each, want %d", c.run, got, c.want)
		}
	}
	r.Kubectl(t, "delete", "networkpolicy", "closed")
}

// annotate makes a pod that serves, with annotations and further fields of its container.
func (r *rig) annotate(name, node, annotations, more string) pod {
	r.t.Helper()
	r.Apply(r.t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {run: %[1]s}, annotations: {%s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/testpod:1", imagePullPolicy: Never, args: [serve, ":7000"]%s}]
`, name, annotations, node, more))
	return r.await("run="+name, 1, "ready", isReady)[0]
}

// links are the links in the pod with an address.
func (r *rig) links(machine int, address string) string {
	r.t.Helper()
	out, err := r.Machines[machine].Try(r.t, "bash", "-c", fmt.Sprintf(
		`for n in /run/netns/*; do if nsenter --net=$n ip -o address | grep -qF ' %s/'; then exec nsenter --net=$n ip -o link; fi; done; exit 9`, address))
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func annotated(t *testing.T, r *rig, web []pod) {
	pool := r.annotate("pooled", web[2].node, `cni.projectcalico.org/ipv4pools: '["special"]'`, "")
	fixed := r.annotate("fixed", web[2].node, `cni.projectcalico.org/ipAddrs: '["10.245.0.77"]', cni.projectcalico.org/hwAddr: "02:00:5e:10:00:07"`, "")
	for _, p := range []pod{pool, fixed} {
		v4, _ := r.addresses(p.name)
		if a := netip.MustParseAddr(v4); !netip.MustParsePrefix("10.245.0.0/24").Contains(a) {
			t.Errorf("pod %s has the address %s, want one of the pool special", p.name, v4)
		}
		if c := r.udp(web[0].name, v4+":7000", 100); c.Answered != 100 {
			t.Errorf("pod %s answered %d of %d packets from the other node", p.name, c.Answered, c.Sent)
		}
	}
	if v4, _ := r.addresses("fixed"); v4 != "10.245.0.77" {
		t.Errorf("the pod that asks for 10.245.0.77 has %s", v4)
	}
	if out := r.links(1, "10.245.0.77"); !strings.Contains(out, "02:00:5e:10:00:07") {
		t.Errorf("the pod that asks for the MAC address 02:00:5e:10:00:07 has\n%s", out)
	}
}

// hostPort asks a port of a host that a pod has, from another host and from a pod there; with the pod it goes.
func hostPort(t *testing.T, r *rig, web []pod) {
	r.annotate("ported", web[2].node, "", `, ports: [{containerPort: 7000, hostPort: 8080}]`)
	url := "http://" + r.Machines[1].Address.String() + ":8080/"
	ask := func() (all []int) {
		host, err := r.Machines[0].Try(t, manifests(t, "../bin/testpod"), "http", url, "20")
		if err != nil {
			t.Fatal(err)
		}
		for _, out := range []string{host, r.Kubectl(t, "exec", web[0].name, "--", "/testpod", "http", url, "20")} {
			by := map[string]int{}
			if err := json.Unmarshal([]byte(out), &by); err != nil {
				t.Fatal(err)
			}
			all = append(all, by["ported"])
		}
		return all
	}
	if got := ask(); !slices.Equal(got, []int{20, 20}) {
		t.Errorf("of 20 requests each to the host's port from another host and a pod there the pod answered %v", got)
	}
	r.Kubectl(t, "delete", "pod", "ported")
	if got := ask(); !slices.Equal(got, []int{0, 0}) {
		t.Errorf("when the pod is gone its host port is still answered: %v", got)
	}
}

// bandwidth looks for the shaper that the plugin of that name makes.
func bandwidth(t *testing.T, r *rig, web []pod) {
	shapers := func() string {
		out, err := r.Machines[1].Try(t, "tc", "qdisc", "show")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := shapers(); strings.Contains(out, "tbf") {
		t.Fatalf("there is a shaper before a pod asks for one:\n%s", out)
	}
	slow := r.annotate("slow", web[2].node, `kubernetes.io/ingress-bandwidth: "1M", kubernetes.io/egress-bandwidth: "2M"`, "")
	if out := shapers(); strings.Count(out, "tbf") != 2 || !strings.Contains(out, "rate 1Mbit") || !strings.Contains(out, "rate 2Mbit") {
		t.Errorf("want shapers of 1 and 2 Mbit/s:\n%s", out)
	}
	if c := r.udp(web[0].name, slow.ip+":7000", 100); c.Answered != 100 {
		t.Errorf("the pod answered %d of %d small packets", c.Answered, c.Sent)
	}
}
