package bench

import (
	"fmt"
	"testing"

	"weft/bench/compare"
	"weft/bench/result"
)

// found gives the values of a metric, of which there have to be so many, all of them more than 0.
func found(t *testing.T, records []result.Record, want int, way, setting, metric string) (values []float64) {
	t.Helper()
	for _, r := range records {
		if r.Way == way && r.Setting == setting && r.Metric == metric && !r.Control {
			if values = append(values, r.Value); r.Value <= 0 {
				t.Errorf("%s of %s, %s is %v", metric, way, setting, r.Value)
			}
		}
	}
	if len(values) != want {
		t.Fatalf("%s of %s, %s: %d records, want %d", metric, way, setting, len(values), want)
	}
	return values
}

// comparable fails unless the records can be compared with themselves: ratios with a direction, and controls.
func comparable(t *testing.T, records []result.Record) {
	t.Helper()
	rep := compare.Compare(records, records, 0.02)
	controls := map[string]int{}
	for _, r := range records {
		if r.Control {
			controls[r.Experiment]++
		}
	}
	if len(rep.Rows) == 0 || rep.Ignored > 0 || rep.Failed() {
		t.Errorf("compared with themselves: %d rows, %d ignored, failed is %v", len(rep.Rows), rep.Ignored, rep.Failed())
	}
	for _, row := range rep.Rows {
		if controls[row.Key.Experiment] == 0 {
			t.Errorf("%v: its experiment has no control", row.Key)
		}
	}
}

// Both backends: changes take as long as the store at least, the control's median is about 1, and a thousand policies cost
// a first packet more than none.
func TestPolicyRecords(t *testing.T) {
	records, _, err := weftBench(t, "policy", "--policies", "200", "--pods", "10", "--endpoints", "60", "--changes", "4", "--starts", "1", "--rounds", "3", "--time", "20ms")
	if err != nil {
		t.Fatal(err)
	}
	comparable(t, records)
	const all = "200 policies, 10 pods, 60 endpoints elsewhere"
	for _, way := range []string{"nftables", "iptables"} {
		for _, what := range []string{"policy_change", "label_change"} {
			found(t, records, 4, way, all, what)
			found(t, records, 4, way, all, what+"_of_told")
			if n := found(t, records, 1, way, all, what+"s"); n[0] != 4 {
				t.Errorf("%s: %v %s, want 4", way, n[0], what)
			}
		}
		found(t, records, 1, way, "nothing", "start")
		found(t, records, 1, way, all, "start_of_empty")
		found(t, records, 1, way, all, "memory")
		for _, kind := range ruleKinds {
			for i := range ruleSpecs {
				found(t, records, 3, way, ruleSetting(i), kind.cost)
				found(t, records, 3, way, ruleSetting(i), kind.count)
			}
		}
		if many := compare.MedianOf(found(t, records, 3, way, "1000 policies", "first_packet_cost_of_none")); many.Value < 3 {
			t.Errorf("%s: with 1,000 policies a first packet costs %v of one with none: want 3 or more", way, many)
		}
	}
}

func TestScaleRecords(t *testing.T) {
	records, _, err := weftBench(t, "scale", "--nodes", "50", "--more", "3", "--idle", "1s")
	if err != nil {
		t.Fatal(err)
	}
	comparable(t, records)
	for _, what := range []string{"one_more_node", "one_more_block"} {
		found(t, records, 3, "", "50 nodes", what)
		found(t, records, 3, "", "50 nodes", what+"_of_told")
	}
	found(t, records, 1, "", "50 nodes", "start")
	found(t, records, 1, "", "50 nodes", "memory")
	if n := found(t, records, 1, "", "50 nodes", "routes"); n[0] < 50 {
		t.Errorf("%v routes of 50 nodes", n[0])
	}
}

// One at a time and all at once, with each number of policies: every ADD and DEL is there, with its steps and what it asks of
// the store, and more than the kernel alone takes.
func TestCNIRecords(t *testing.T) {
	records, _, err := weftBench(t, "cni", "--pods", "4", "--at-once", "5", "--rounds", "2")
	if err != nil {
		t.Fatal(err)
	}
	comparable(t, records)
	for how, n := range map[string]int{"one at a time": 4, "5 at once": 5} {
		found(t, records, 2*n, cniHand, how, "add")
		found(t, records, 2*n, cniHand, how, "del")
		for _, policies := range cniPolicies {
			setting := fmt.Sprintf("%s, %d policies", how, policies)
			for _, what := range []string{"add", "del"} {
				found(t, records, 2*n, cniWeft, setting, what)
				found(t, records, 1, cniWeft, setting, what+"_p99")
				found(t, records, 2, cniWeft, setting, what+"_of_hand")
				found(t, records, 2, cniWeft, setting, "requests_per_"+what)
			}
			inNode, whole := found(t, records, 2, cniWeft, setting, "add_step_all"), found(t, records, 1, cniWeft, setting, "add_p99")
			if inNode[0] > whole[0] || inNode[1] > whole[0] {
				t.Errorf("%s: the median ADD took the node %v s, and the slowest %v s as a whole", setting, inNode, whole)
			}
		}
		if ratio := compare.MedianOf(found(t, records, 2, cniWeft, how+", 0 policies", "add_of_hand")); ratio.Value < 1 {
			t.Errorf("%s: an ADD takes %v of what the kernel alone does", how, ratio)
		}
	}
}
