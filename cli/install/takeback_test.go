package install

import (
	"net/http"
	"testing"

	"weft/internal/testkit/kube"
)

// What an overlay has set of the network is gone after another one, and what others have set is there still.
func TestAnotherOverlayTakesBack(t *testing.T) {
	server := kube.Start(t)
	c, said := on(t, server)
	felix := Object{"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": map[string]any{"name": "default"}}
	bgp := Object{"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": map[string]any{"name": "default"}}
	change := func(o Object, field string, value any) {
		t.Helper()
		server.MustDo(t, http.MethodPatch, o.path(), map[string]any{"spec": map[string]any{field: value}})
	}
	// settings applies those of an overlay, and takes back others', as Install does.
	settings := func(overlay string) {
		t.Helper()
		_, rest, err := Manifests(Options{Overlay: overlay})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range rest {
			if o["apiVersion"] == felix["apiVersion"] {
				if err := c.apply(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
		}
		*said = nil
		if err := c.takeBack(t.Context(), rest); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, o Object, field string, value any) {
		t.Helper()
		if is := fetch(t, server, o).at("spec", field); is != value {
			t.Errorf("%s: %s %s has %s %v, want %v", when, o.Kind(), o.Name(), field, is, value)
		}
	}
	settings("wireguard")
	change(felix, "wireguardListeningPort", 51999)
	want("wireguard", felix, "wireguardEnabled", true)
	settings("bgp")
	want("bgp", felix, "wireguardEnabled", nil)
	want("bgp", felix, "wireguardListeningPort", 51999.0)
	want("bgp", bgp, "asNumber", 64512.0)
	if !said.has("FelixConfiguration default: what another overlay has set is taken back") {
		t.Errorf("nobody is told: %q", *said)
	}
	settings("vxlan")
	want("vxlan", bgp, "asNumber", nil)
	want("vxlan", bgp, "nodeToNodeMeshEnabled", nil)
	// By now nothing is left to take back, and what people set is not this program's.
	change(felix, "wireguardEnabled", true)
	settings("vxlan")
	want("vxlan again", felix, "wireguardEnabled", true)
	if len(*said) != 0 {
		t.Errorf("taken back twice: %q", *said)
	}
}
