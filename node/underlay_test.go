package node

import (
	"context"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/model"
)

// TestUnderlayIsNeverStale has two readers after each event: both must see what the event was about,
// also the one that comes while the other still reads.
func TestUnderlayIsNeverStale(t *testing.T) {
	reading, gate := make(chan bool), make(chan model.Underlay)
	u := &underlay{read: func(context.Context) (model.Underlay, error) {
		reading <- true
		return <-gate, nil
	}}
	got := make(chan string, 2)
	ask := func() {
		under, _, err := u.get(context.Background())
		if err != nil || len(under.Links) != 1 {
			t.Errorf("got %v, %v", under, err)
			got <- ""
			return
		}
		got <- under.Links[0].Name
	}
	for _, name := range []string{"eth0", "eth1"} {
		go ask()
		<-reading
		go ask()
		select {
		case g := <-got:
			t.Fatalf("a reader got %q while the links were being read", g)
		case <-time.After(50 * time.Millisecond):
		}
		gate <- model.Underlay{Links: []model.Link{{Name: name}}}
		for range 2 {
			if g := <-got; g != name {
				t.Errorf("a reader got %q, want %q", g, name)
			}
		}
		u.observe(kernel.Event{Kind: kernel.EventLink, Link: kernel.Link{Name: name}})
	}
}

// TestUnderlayReadsAgainAfterAnEventDuringTheRead: what the read missed is read by the next call.
func TestUnderlayReadsAgainAfterAnEventDuringTheRead(t *testing.T) {
	reads := 0
	u := &underlay{}
	u.read = func(context.Context) (model.Underlay, error) {
		if reads++; reads == 1 {
			u.observe(kernel.Event{Kind: kernel.EventAddr, Link: kernel.Link{Name: "eth0"}})
		}
		return model.Underlay{Links: []model.Link{{Name: "eth0", MTU: 1500 + reads}}}, nil
	}
	for want := 1; want <= 2; want++ {
		under, gen, err := u.get(t.Context())
		if err != nil || under.Links[0].MTU != 1500+want || gen != uint64(want) {
			t.Errorf("read %d: %v, generation %d, %v", want, under, gen, err)
		}
	}
	if _, _, _ = u.get(t.Context()); reads != 2 {
		t.Errorf("%d reads, want 2", reads)
	}
}
