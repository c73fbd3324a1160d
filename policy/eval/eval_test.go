package eval

import (
	"fmt"
	"testing"

	"weft/model"
	"weft/policy"
	"weft/policy/eval/reference"
	"weft/policy/policytest"
)

// scene is one random world with its Program and the reference's view of it.
type scene struct {
	world     *policytest.World
	program   *policy.Program
	reference *reference.Reference
}

func newScene(t testing.TB, seed uint64) *scene {
	t.Helper()
	w := policytest.Full(seed, seed%3 == 0)
	p, err := policy.Compile(w.Snapshot)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	r, err := reference.New(w.Snapshot)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	return &scene{w, p, r}
}

// TestAgainstReference asks Program and reference what becomes of random packets in random worlds.
func TestAgainstReference(t *testing.T) {
	worlds, packets := uint64(1000), 2100
	if testing.Short() {
		worlds = 50
	}
	var asked, allowed, decidedByRule, afterPass, staged int
	for seed := range worlds {
		s := newScene(t, seed)
		for range packets {
			pkt := s.world.Packet()
			want := s.reference.Allowed(pkt)
			if got := Allowed(s.program, pkt); got != want {
				t.Fatalf("seed %d: %s: the program says %v, the reference %v\n%+v\n%s", seed, pkt, got, want, Explain(s.program, pkt), s.program.Format())
			}
			asked++
			if want {
				allowed++
			}
		}
		s.reference.Staged = true
		for range packets / 20 { // the same with reasons, and with staged policies
			pkt := s.world.Packet()
			v, st := Explain(s.program, pkt), Staged(s.program, pkt)
			if want := s.reference.Allowed(pkt); st.Allowed != want {
				t.Fatalf("seed %d: %s: with staged policies the program says %v, the reference %v\n%+v\n%s", seed, pkt, st.Allowed, want, st, s.program.Format())
			}
			if v.Allowed != Allowed(s.program, pkt) {
				t.Fatalf("seed %d: %s: Explain and Allowed differ", seed, pkt)
			}
			asked += 2
			if err := sound(&v); err != nil {
				t.Fatalf("seed %d: %s: %v: %+v", seed, pkt, err, v)
			}
			if st.Allowed != v.Allowed {
				staged++
			}
			rule, pass := kinds(&v)
			decidedByRule, afterPass = decidedByRule+rule, afterPass+pass
		}
	}
	t.Logf("0 differences in %d verdicts of %d worlds (%d allowed); of %d explained %d met a rule, %d a pass, %d would change with staged policies",
		asked, worlds, allowed, int(worlds)*(packets/20), decidedByRule, afterPass, staged)
	if allowed < asked/10 || allowed > asked*9/10 || decidedByRule == 0 || afterPass == 0 || staged == 0 {
		t.Error("the worlds do not exercise the evaluators")
	}
}

// sound checks that the reasons lead to the verdict.
func sound(v *Verdict) error {
	if len(v.Reasons) == 0 {
		if !v.Allowed {
			return fmt.Errorf("denied without a reason")
		}
		return nil
	}
	last := v.Reasons[len(v.Reasons)-1]
	if (last.Action == model.Allow) != v.Allowed {
		return fmt.Errorf("allowed is %v, the last reason %s", v.Allowed, last.Action)
	}
	for _, r := range v.Reasons {
		if r.Staged {
			return fmt.Errorf("a staged policy was enforced")
		}
		if r.At == "" || (r.Rule < 0) != (r.Text != "") || (r.Rule >= 0) != (r.Chain != "") {
			return fmt.Errorf("reason %+v does not say why", r)
		}
	}
	return nil
}

func kinds(v *Verdict) (rule, pass int) {
	for _, r := range v.Reasons {
		if r.Rule >= 0 {
			rule = 1
		}
		if r.Action == model.Pass {
			pass = 1
		}
	}
	return rule, pass
}
