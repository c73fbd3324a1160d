package rotation

import (
	"strings"
	"testing"

	v3 "weft/api/v3"
)

// A node that another FelixConfiguration keeps from encrypting holds nothing up, unless it still has a key.
func TestKeysBehind(t *testing.T) {
	objects, err := v3.Decode([]byte(`
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {wireguardEnabled: true, wireguardKeyEpoch: 1}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: edge}
spec: {nodeSelector: "edge == 'yes'", wireguardEnabled: false}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1}
status: {wireguardPublicKey: f9w/wp4OZKsaecuO8gmEUf1Ua1xZ1wnTZ/tC/+r/lkQ=}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n2}
status: {wireguardKeys: [{epoch: 1, publicKey: 2lO8sJk2rlEo/J6UowLAC8d3qbeKHVLGP7nrMQtMw0o=}, {epoch: 0, publicKey: JbATw/hhbFXaTG+ApKINZj07isjV5PJkTu7V/vn/sCg=}]}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n3}
status: {wireguardKeys: [{epoch: 1, publicKey: OPFR6Cn39BnUMEGG+dgD2tOxSeWxrHxeH0+OBgIX+js=}]}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n4}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n5, labels: {edge: "yes"}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n6, labels: {edge: "yes"}}
status: {wireguardKeys: [{epoch: 0, publicKey: nxcD4joItdfdxnq7IlpzAWBgKculYSew7qweG6g0520=}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	k := New(objects)
	want := "n1 has the key of epoch 0; n2 has the keys of epochs 0 and 1; n4 has no key; n6 has the key of epoch 0"
	if got := strings.Join(k.Behind(), "; "); got != want || len(k.Nodes) != 5 {
		t.Errorf("of %d nodes, want 5: got %q, want %q", len(k.Nodes), got, want)
	}
}
