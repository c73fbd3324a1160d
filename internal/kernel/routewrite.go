package kernel

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"weft/internal/reconcile"
)

// SpareMetric is the metric of a route that stands by while another to the same IPv4 prefix is replaced, and is gone when PutMany returns.
//
// A lookup that has just found the old route, when the kernel drops that, goes on to the next one to the prefix or, if there is none,
// to a shorter prefix: it misses the new one, which has taken the old one's place (net/ipv4/fib_trie.c, fib_table_lookup where
// fib_dead is set). For IPv6 nothing helps: such a lookup fails whatever comes next.
const SpareMetric = math.MaxInt32

// putChunk is how many routes are written at a time. Spares wait for the whole chunk: more make the table larger meanwhile.
const putChunk = 256

// PutMany implements reconcile.BatchTable. What exists is replaced in place; what does not is
// created exclusively, so that a foreign route with the same key is found and left alone.
func (t routeTable) PutMany(ctx context.Context, puts []reconcile.Change[RouteKey, Route]) []error {
	errs := make([]error, len(puts))
	index, err := t.h.indexes(ctx, devicesOf(puts))
	for i := range puts {
		if errs[i] = err; err == nil {
			errs[i] = checkPut(puts[i].Key, puts[i].Want.canonical(), index)
		}
	}
	for at := 0; at < len(puts); at += putChunk {
		end := min(at+putChunk, len(puts))
		t.putChunk(ctx, puts[at:end], index, errs[at:end])
	}
	return errs
}

// putChunk writes those routes that have no error yet.
func (t routeTable) putChunk(ctx context.Context, puts []reconcile.Change[RouteKey, Route], index map[string]int, errs []error) {
	var spares, writes, drops []request
	var spared, written []int
	for i, c := range puts {
		if errs[i] != nil {
			continue
		}
		r := c.Want.canonical()
		flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
		if c.Exists {
			flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
		}
		if c.Exists && c.Key.Dst.Addr().Is4() {
			k := c.Key
			k.Metric = SpareMetric
			spares = append(spares, request{unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_EXCL, encodeRoute(k, r, index)})
			drops = append(drops, deletion(k))
			spared = append(spared, i)
		}
		writes = append(writes, request{unix.RTM_NEWROUTE, flags, encodeRoute(c.Key, r, index)})
		written = append(written, i)
	}
	// That there is no spare is no error: what matters is found by the write itself.
	answers, _ := t.h.exec(ctx, slices.Concat(spares, writes, drops)) // its error is in each answer that it touches
	for n, err := range answers[len(spares) : len(spares)+len(writes)] {
		i := written[n]
		switch {
		case errors.Is(err, unix.EEXIST):
			errs[i] = ErrForeignRoute
		case err != nil:
			errs[i] = fmt.Errorf("%v: %w", puts[i].Want, err)
		}
	}
	// One that may be left is: the next call reads the table again, and removes it.
	for n, err := range answers[len(spares)+len(writes):] {
		if i := spared[n]; errs[i] == nil && err != nil && !routeGone(err) {
			errs[i] = fmt.Errorf("remove the route with metric %d that stood by: %w", SpareMetric, err)
		}
	}
}

// checkPut returns what is wrong with a route before the kernel is asked.
func checkPut(k RouteKey, r Route, index map[string]int) error {
	if err := checkRoute(k, r); err != nil {
		return err
	}
	if missing := slices.IndexFunc(r.devices(), func(d string) bool { return index[d] == 0 }); missing >= 0 {
		return fmt.Errorf("device %s: %w", r.devices()[missing], unix.ENODEV)
	}
	return nil
}

// DeleteMany implements reconcile.BatchTable. The kernel compares the protocol number as well.
func (t routeTable) DeleteMany(ctx context.Context, deletes []reconcile.Change[RouteKey, Route]) []error {
	reqs := make([]request, len(deletes))
	for i, c := range deletes {
		reqs[i] = deletion(c.Key)
	}
	errs, _ := t.h.exec(ctx, reqs)
	for i, err := range errs {
		if routeGone(err) {
			errs[i] = nil
		}
	}
	return errs
}

func deletion(k RouteKey) request {
	return request{unix.RTM_DELROUTE, 0, rtMsg(k, 0, unix.RT_SCOPE_NOWHERE, 0).b}
}

// routeGone tells that a route which was to be removed is not there.
func routeGone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }
