package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"weft/node/datastore"
)

// History is what a writer did, by key, in order: the number it wrote, or -1 for a deletion.
type History map[string][]int

// Churn makes n changes to 200 nodes, by several writers that have their own each, and returns what
// they did. pace is called before each, by one writer at a time.
func Churn(t testing.TB, s datastore.Store, n int, pace func(i int)) History {
	t.Helper()
	const writers, keys = 4, 200
	all := History{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			h := History{}
			there := map[string]bool{}
			for i := w; i < n; i += writers {
				mu.Lock()
				pace(i)
				mu.Unlock()
				if err := churnOnce(t.Context(), s, fmt.Sprintf("n%d", rand.IntN(keys/writers)*writers+w), i, there, h); err != nil {
					t.Error(err)
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(all, h)
		})
	}
	wg.Wait()
	return all
}

// churnOnce makes the i-th change, and now and then one of a kind that is not followed.
func churnOnce(ctx context.Context, s datastore.Store, name string, i int, there map[string]bool, h History) error {
	var err error
	switch o := Node(name, map[string]string{"i": strconv.Itoa(i)}); {
	case !there[name]:
		_, err = s.Create(ctx, o)
		there[name] = true
		h[name] = append(h[name], i)
	case rand.IntN(5) == 0:
		err = s.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{})
		there[name] = false
		h[name] = append(h[name], -1)
	default:
		_, err = s.Update(ctx, o)
		h[name] = append(h[name], i)
	}
	if err == nil && i%40 == 0 {
		r := Reservation("r", "10.0.0.0/24")
		r.Labels = map[string]string{"i": strconv.Itoa(i)}
		if _, err = s.Update(ctx, r); errors.Is(err, datastore.ErrNotFound) {
			_, err = s.Create(ctx, r)
		}
	}
	return err
}

// Seen turns what a sink got into a history.
func Seen(changes []datastore.Change) History {
	h := History{}
	for _, c := range changes {
		i := -1
		if c.Object != nil {
			i, _ = strconv.Atoi(c.Object.GetLabels()["i"])
		}
		h[c.Key.Name] = append(h[c.Key.Name], i)
	}
	return h
}

func last(h []int) int {
	if len(h) == 0 {
		return -1
	}
	return h[len(h)-1]
}

// Behind counts the keys whose last state is not the writer's.
func Behind(want, got History) (n int) {
	for name, h := range want {
		if last(got[name]) != last(h) {
			n++
		}
	}
	return n
}

// Disorder counts what is in got for a key and is not, in that order, in want: a repeat, a change
// out of order, or one that never was. Two deletions in a row count, too.
func Disorder(want, got History) (n int) {
	for name, g := range got {
		at := 0
		for _, v := range g {
			for at < len(want[name]) && want[name][at] != v {
				at++
			}
			if at == len(want[name]) {
				n++
				break
			}
			at++
		}
	}
	return n
}

func steps(h History) (n int) {
	for _, s := range h {
		n += len(s)
	}
	return n
}
