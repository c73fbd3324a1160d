package ipam

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/node/ipam/block"
)

func TestCodecRoundTrip(t *testing.T) {
	o, err := newBlock(netip.MustParsePrefix("10.0.0.0/29"), "n1", time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	b, repairs, err := decodeBlock(o)
	if err != nil || len(repairs) > 0 {
		t.Fatal(err, repairs)
	}
	for _, h := range []string{"a", "b", "a"} {
		if _, err := b.AssignNext(&block.Owner{Handle: h, Attributes: map[string]string{AttrPod: h}}, block.Policy{}); err != nil {
			t.Fatal(err)
		}
	}
	b.ReleaseHandle("b", block.Policy{Now: time.Unix(2e9, 0), Cooldown: time.Minute})
	encodeBlock(b, o)
	if len(o.Spec.Attributes) != 2 {
		t.Errorf("%d attributes for two owners, want 2", len(o.Spec.Attributes))
	}
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var read v3.IPAMBlock
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	again, repairs, err := decodeBlock(&read)
	if err != nil || len(repairs) > 0 {
		t.Fatal(err, repairs)
	}
	same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(b.State(), again.State(), same, cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Errorf("changed by being stored:\n%s", diff)
	}
	if err := v3.Validate(o); err != nil {
		t.Errorf("the store refuses our block: %v", err)
	}
}

func TestBlockNames(t *testing.T) {
	for cidr, want := range map[string]string{"10.0.0.0/26": "10-0-0-0-26", "fd00:10:244::40/122": "fd00-10-244--40-122"} {
		if got := blockName(netip.MustParsePrefix(cidr)); got != want {
			t.Errorf("name of block %s is %s, want %s", cidr, got, want)
		}
	}
}

// FuzzBlock reads blocks from arbitrary JSON, as another program may have written them, and works
// with what is accepted.
func FuzzBlock(f *testing.F) {
	o, err := newBlock(netip.MustParsePrefix("10.0.0.0/30"), "n1", time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(o)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, s := range []string{
		`{}`, `{"spec":{"cidr":"10.0.0.0/8"}}`, `{"spec":{"cidr":"10.0.0.1/30","allocations":[null,null,null,null]}}`,
		`{"spec":{"cidr":"fd00::/127","allocations":[0,7],"unallocated":[0,1,1,-4],"attributes":[{"handle_id":"a","releasedAt":"2020-01-01T00:00:00Z"}],"sequenceNumberForAllocation":{"0":18446744073709551615,"9":1}}}`,
		`{"spec":{"cidr":"10.0.0.0/31","allocations":[-1,null],"unallocated":null,"sequenceNumberForAllocation":{"x":1}}}`,
		`{"spec":{"cidr":"10.0.0.0/32","allocations":[0],"attributes":[{}],"deleted":true,"affinity":"virtual:load-balancer","sequenceNumber":9223372036854775807}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var o v3.IPAMBlock
		if json.Unmarshal(data, &o) != nil {
			return
		}
		b, repairs, err := decodeBlock(&o)
		if err != nil {
			return
		}
		if err := b.Check(); err != nil {
			t.Fatalf("read from %s: %v", data, err)
		}
		inUse := len(b.Allocations())
		p := block.Policy{Now: time.Unix(1.7e9, 0), Cooldown: time.Minute}
		if u := b.Usage(p); u.Used != inUse || u.Used+u.Free+u.Cooling != u.Size {
			t.Fatalf("usage %+v, %d in use", u, inUse)
		}
		got, err := b.AssignNext(&block.Owner{Handle: "fuzz"}, p)
		if err == nil && len(b.Allocations()) != inUse+1 {
			t.Fatalf("%v was taken from somebody: %d in use before, %d after", got, inUse, len(b.Allocations()))
		}
		b.Touch()
		encodeBlock(b, &o)
		again, more, err := decodeBlock(&o)
		if b.Sequence() <= 1<<63-1 && (err != nil || len(more) > 0) {
			t.Fatalf("what was written does not read (repaired before: %v): %v %v", repairs, err, more)
		}
		if err == nil && again.Check() != nil {
			t.Fatal(again.Check())
		}
	})
}
