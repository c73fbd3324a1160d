package etcd

import (
	"testing"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

func TestKeys(t *testing.T) {
	l := newLayout("/weft")
	for want, k := range map[string]datastore.Key{
		"/weft/v1/ippools/default-ipv4-ippool":    {Kind: v3.KindIPPool, Name: "default-ipv4-ippool"},
		"/weft/v1/workloadendpoints/ns/n1-k8s-p":  {Kind: v3.KindWorkloadEndpoint, Namespace: "ns", Name: "n1-k8s-p"},
		"/weft/v1/nodes/node-1.example.com":       {Kind: v3.KindNode, Name: "node-1.example.com"},
		"/weft/v1/ipamblocks/10-0-0-0-26":         {Kind: v3.KindIPAMBlock, Name: "10-0-0-0-26"},
		"/weft/v1/blockaffinities/n1-10-0-0-0-26": {Kind: v3.KindBlockAffinity, Name: "n1-10-0-0-0-26"},
	} {
		got, err := l.key(k)
		if err != nil || got != want {
			t.Errorf("key of %v: %q, %v; want %q", k, got, err, want)
		}
		if back, ok, err := l.parse(want); back != k || !ok || err != nil {
			t.Errorf("parse %q: %v, %v, %v; want %v", want, back, ok, err, k)
		}
	}
}

// Whatever the key: no panic, and what is accepted is exactly what is written.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"/weft/v1/nodes/n1", "/weft/v1/workloadendpoints/ns/n", "/weft/v1/workloadendpoints/n", "/weft/v1/nodes/",
		"/weft/v1/nodes/a/b", "/weft/v1//", "/weft/guard/ippools", "", "/weft/v1/nodes/\x00", "/weft/v1/elephants/x"} {
		f.Add(s)
	}
	l := newLayout("/weft")
	f.Fuzz(func(t *testing.T, s string) {
		k, ok, err := l.parse(s)
		if !ok {
			if err != nil || k != (datastore.Key{}) {
				t.Errorf("%q is not ours, yet %v, %v", s, k, err)
			}
			return
		}
		back, kerr := l.key(k)
		if (err == nil) != (kerr == nil && back == s) {
			t.Errorf("%q parses to %v (%v), which is written %q (%v)", s, k, err, back, kerr)
		}
	})
}

func FuzzParseRevision(f *testing.F) {
	for _, s := range []string{"1@ff", "0", "", "@", "9223372036854775808", "1@", "-1", "1@ffffffffffffffff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRevision(s)
		if err != nil {
			return
		}
		if back, err := parseRevision(r.String()); err != nil || back != r {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, r, back, err)
		}
	})
}
