package node

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
)

// A node with 1,000 pods, Docker and a service proxy publishes its own interfaces, and none of theirs.
func TestPublishedInterfacesOfAKernel(t *testing.T) {
	testkit.RequireRoot(t)
	ns, pods := testkit.NewNetns(t), testkit.NewNetns(t)
	const count = 1000
	var batch strings.Builder
	for i := range count {
		device := kernel.PodDeviceName(model.EndpointID{Namespace: "default", Pod: fmt.Sprint("p", i), Interface: "eth0"})
		fmt.Fprintf(&batch, "link add %s type veth peer name e%d netns %s\nlink set %s up\naddr add 10.1.%d.%d/32 dev %s\n", device, i, pods.Name, device, i/250, i%250+1, device)
	}
	for i, name := range []string{"docker0", "kube-ipvs0", "br-0123", "eth1", "bond0"} {
		fmt.Fprintf(&batch, "link add %s type bridge\nlink set %s up\naddr add 10.2.%d.1/24 dev %s\n", name, name, i, name)
	}
	batch.WriteString("link add eth7 type bridge\n")
	batch.WriteString("link add eth0 type veth peer name up0 netns " + pods.Name + "\nlink set eth0 up\naddr add 192.0.2.1/24 dev eth0\naddr add 2001:db8::1/64 dev eth0 nodad\naddr add 10.99.0.1/32 dev lo\nlink set lo up\n")
	cmd := exec.Command("ip", "-n", ns.Name, "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make the interfaces: %v\n%s", err, out)
	}
	h := ns.Open(t)
	u, err := kernel.Underlay(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	got, left := published(u, netip.MustParsePrefix("192.0.2.1/24"))
	want := []v3.NodeInterface{{Name: "bond0", Addresses: []string{"10.2.4.1"}}, {Name: "eth0", Addresses: []string{"192.0.2.1", "2001:db8::1"}}, {Name: "eth1", Addresses: []string{"10.2.3.1"}}, {Name: "eth7"}}
	if d := cmp.Diff(want, got); d != "" || left != (unpublished{}) {
		t.Errorf("of %d pods and %d interfaces of others, %+v have no room (-want +got):\n%s", count, 3, left, d)
	}
}
