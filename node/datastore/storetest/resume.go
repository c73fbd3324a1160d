package storetest

import (
	"math/rand/v2"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// Wire is a store with two clients: one writes undisturbed, the other reads by a connection that can be broken.
type Wire struct {
	Writer, Reader datastore.Store
	// Proxy is what the Reader is behind.
	Proxy *Proxy
	// Forget drops the history that the store holds, and tells whether it could; nil: it cannot.
	Forget func() bool
}

// Resume makes changes while the connection is cut at random and, with Forget, now and then the history is dropped
// during a cut. Without it every single change must come, once, in order; with it the states in between may be
// skipped, no more. Nodes that are there before are not expected.
func Resume(t *testing.T, w Wire, changes int) {
	sink, control := NewRecorder(), NewRecorder()
	Follow(t, w.Reader, sink, v3.KindNode, v3.KindIPPool)
	// The control lists once and watches once.
	l := Must[*datastore.List](t)(w.Reader.List(t.Context(), v3.KindNode))
	controlDone := make(chan struct{})
	go func() {
		defer close(controlDone)
		_ = w.Reader.Watch(t.Context(), l.Revision, []string{v3.KindNode}, func(c []datastore.Change) error {
			control.OnChanges(c)
			return nil
		})
	}()
	sink.Wait(t, "first snapshot", 5*time.Second, (*Recorder).InSync)

	forgotten := 0
	want := Churn(t, w.Writer, changes, func(i int) {
		if i == 0 || rand.IntN(150) != 0 {
			return
		}
		w.Proxy.Cut()
		if w.Forget != nil && rand.IntN(2) == 0 {
			w.Proxy.Refuse(true)
			time.AfterFunc(time.Duration(50+rand.IntN(100))*time.Millisecond, func() { w.Proxy.Refuse(false) })
			if w.Forget() {
				forgotten++
			}
		}
	})
	w.Proxy.Refuse(false)
	sink.Wait(t, "all changes", 30*time.Second, func(r *Recorder) bool {
		return Behind(want, Seen(r.Changes)) == 0 && r.InSync()
	})
	w.Proxy.Cut()
	<-controlDone
	got, ctl := Seen(sink.Changes), Seen(control.Changes)
	if n := Disorder(want, got); n > 0 {
		t.Errorf("%d of %d keys had a change repeated, out of order or invented", n, len(want))
	}
	missed := steps(want) - steps(got)
	if w.Forget == nil && missed != 0 {
		t.Errorf("%d missed of %d changes", missed, steps(want))
	}
	if w.Forget != nil && forgotten == 0 {
		t.Error("no history was dropped")
	}
	if n := Behind(want, ctl); n == 0 {
		t.Error("control: a follower that does not resume missed nothing: the cuts do not cut")
	}
	t.Logf("0 missed of %d keys' final states; %d of %d steps skipped over %d cuts, %d histories dropped; "+
		"control without resume: %d of %d keys behind", len(want), missed, steps(want), w.Proxy.Cuts(), forgotten, Behind(want, ctl), len(want))
}
