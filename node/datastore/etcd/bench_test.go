package etcd

import (
	"fmt"
	"strconv"
	"testing"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// benchServer is the server as the node runs it, fsync and all.
func benchServer(b *testing.B) *Store {
	dir := shortDir(b)
	cfg := testConfig(b, dir)
	cfg.NoFsync, cfg.Tick, cfg.Logger = false, 0, nil
	s, err := StartServer(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	st := openStore(b, Config{Endpoints: []string{s.Endpoint()}})
	b.Cleanup(func() {
		_ = st.Close()
		_ = s.Close()
	})
	return st
}

func BenchmarkCreate(b *testing.B) {
	s := benchServer(b)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Create(b.Context(), node(fmt.Sprintf("n%d", i), nil)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompareAndSwap(b *testing.B) {
	s := benchServer(b)
	o, err := s.Create(b.Context(), node("n", map[string]string{}))
	for i := 0; b.Loop(); i++ {
		if err != nil {
			b.Fatal(err)
		}
		n := o.(*v3.Node)
		n.Labels = map[string]string{"i": strconv.Itoa(i)}
		o, err = s.Update(b.Context(), n)
	}
}

func BenchmarkList5000Nodes(b *testing.B) {
	s := benchServer(b)
	fill(b, s, 5000)
	b.ReportAllocs()
	for b.Loop() {
		l, err := s.List(b.Context(), v3.KindNode)
		if err != nil || len(l.Items) != 5000 {
			b.Fatal(err, len(l.Items))
		}
	}
}

// BenchmarkWriteToEvent is from before the write to the follower's having it.
func BenchmarkWriteToEvent(b *testing.B) {
	s := benchServer(b)
	if _, err := s.Create(b.Context(), node("n", nil)); err != nil {
		b.Fatal(err)
	}
	got := make(chan datastore.Change, 16)
	stop := follow(b, s, sinkFunc(func(c []datastore.Change) {
		for _, c := range c {
			got <- c
		}
	}), v3.KindNode)
	defer stop()
	<-got
	for i := 0; b.Loop(); i++ {
		if _, err := s.Update(b.Context(), node("n", map[string]string{"i": strconv.Itoa(i)})); err != nil {
			b.Fatal(err)
		}
		<-got
	}
}

type sinkFunc func([]datastore.Change)

func (sinkFunc) OnState(datastore.State, error)   {}
func (f sinkFunc) OnChanges(c []datastore.Change) { f(c) }
