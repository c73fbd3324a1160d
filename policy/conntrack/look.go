package conntrack

import (
	"context"
	"fmt"
	"net/netip"
)

// batch is how many entries are judged while the Program is held.
const batch = 256

// look is one reading of the table.
type look struct {
	scope   scope
	release bool
	deletes bool
	local   map[netip.Addr]struct{} // this host's own addresses

	judge      *judge
	generation uint64  // that judge knows
	read       []entry // not judged yet; the room behind is used again

	res   Result
	held  int // that stay held
	acted map[[4]byte]struct{}
	hold  []write
	free  []write
	end   []write
	shut  []write // marks what is in end, and in hold where that deletes
}

// take keeps an entry for judge, if it has to be asked about.
func (l *look) take(e *entry) {
	l.res.Read++
	if e.zone || !e.held() && !l.inScope(e) {
		return
	}
	n := len(l.read)
	if n < cap(l.read) {
		l.read = l.read[:n+1]
	} else {
		l.read = append(l.read, entry{})
	}
	c := &l.read[n]
	orig, id := c.rawOrig[:0], c.rawID[:0]
	*c = *e
	c.rawOrig, c.rawID = append(orig, e.rawOrig...), append(id, e.rawID...)
}

// entry judges one entry.
func (l *look) entry(e *entry) {
	id := [4]byte(e.rawID)
	if _, seen := l.acted[id]; seen {
		return
	}
	if l.scope.isGone(e.src) || l.scope.isGone(e.to) {
		l.acted[id] = struct{}{}
		l.end, l.shut = append(l.end, e.deletion()), append(l.shut, e.marking(true))
		return
	}
	allowed, asked := l.judge.allows(e)
	if asked {
		l.res.Judged++
	}
	held := e.held()
	switch {
	case allowed && held:
		l.free = append(l.free, e.marking(false))
	case !allowed && l.deletes: // also what was marked and could not be deleted
		l.hold, l.shut = append(l.hold, e.deletion()), append(l.shut, e.marking(true))
	case !allowed && held:
		l.held++
	case !allowed:
		l.hold = append(l.hold, e.marking(true))
	default:
		return
	}
	l.acted[id] = struct{}{}
}

func (l *look) inScope(e *entry) bool {
	s := &l.scope
	return s.all || s.has(e.src) || s.has(e.to) || s.has(e.dst) || s.isGone(e.src) || s.isGone(e.to)
}

// judged judges what was read so far, by the Program of this moment: whatever changed since the look
// began, the next one looks at as well.
func (c *Cutter) judged(ctx context.Context, l *look) {
	if l.judge != nil { // routes to peers, before the Program is held
		l.judge.resolve(l.read)
	}
	if c.opts.Program != nil {
		c.opts.Program.Lock()
		defer c.opts.Program.Unlock()
	}
	c.mu.Lock()
	p, generation := c.program, c.memory.generation
	c.mu.Unlock()
	if l.judge == nil || l.judge.program != p || l.generation != generation {
		l.judge, l.generation = newJudge(ctx, c.h, p, l.local, l.judge), generation
	}
	for i := range l.read {
		l.entry(&l.read[i])
	}
	l.read = l.read[:0]
}

// look looks at the table and changes what has to be changed.
func (c *Cutter) look(ctx context.Context, l *look) (err error) {
	if l.local, err = localAddresses(c.h); err != nil {
		return fmt.Errorf("read this host's addresses: %w", err)
	}
	if c.table == nil {
		if c.table, err = openTable(c.h); err != nil {
			return err
		}
	}
	c.judged(ctx, l) // for what filters asks
	filters, err := c.filters(ctx, l)
	if err != nil {
		return err
	}
	for _, f := range filters {
		err := c.table.dump(ctx, f, func(e *entry) {
			if l.take(e); len(l.read) == batch {
				c.judged(ctx, l)
			}
		})
		if err != nil {
			return err
		}
	}
	c.judged(ctx, l)
	c.bypassed = c.bypassed || len(l.hold) > 0
	if err := c.hold(ctx, l); err != nil {
		return err
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	if l.res.Released, err = c.table.do(ctx, l.free); err != nil {
		return err
	}
	if l.res.Ended, err = c.end(ctx, l.end, l.shut); err != nil {
		return err
	}
	c.mu.Lock()
	if n := len(filters); n == 0 || filters[n-1] == (filter{}) || filters[n-1].marked {
		c.held = l.held // all that are held were seen
	}
	if !c.deletes {
		c.held += l.res.Cut
	}
	c.mu.Unlock()
	c.started = true
	return c.keepRule(ctx)
}

// hold makes sure that what is marked is dropped, and marks. Where the kernel cannot, it deletes.
func (c *Cutter) hold(ctx context.Context, l *look) error {
	if len(l.hold) == 0 {
		return nil
	}
	if !c.deletes {
		if _, err := c.owner.Sync(ctx, holding()); err != nil {
			if !lacking(err) {
				return fmt.Errorf("hold connections: %w", err)
			}
			c.log.Warn("connections that policy denies are deleted, and may come back the other way round, since this kernel cannot hold them",
				"err", err)
			c.deletes = true
			return fmt.Errorf("hold connections: %w; from now on they are deleted instead", err)
		}
	}
	var err error
	if l.deletes {
		l.res.Cut, err = c.end(ctx, l.hold, l.shut)
	} else {
		l.res.Cut, err = c.table.do(ctx, l.hold)
	}
	return err
}

// filters says what the kernel is asked for: all at once, or one address after the other where that is
// cheaper; nothing where there are no connections, since a walk of the table costs as much when it is
// empty.
func (c *Cutter) filters(ctx context.Context, l *look) ([]filter, error) {
	n, err := c.table.count(ctx)
	if err != nil || n == 0 {
		return nil, err
	}
	s := &l.scope
	if s.all || len(s.nets) > 0 || l.judge.device != nil && !s.empty() {
		return []filter{{}}, nil
	}
	walks := 2 * (len(s.addrs) + len(s.gone))
	if l.release {
		walks++
	}
	if walks > 1 && n < walk*(walks-1) {
		return []filter{{}}, nil
	}
	var fs []filter
	for _, m := range []map[netip.Addr]struct{}{s.addrs, s.gone} {
		for a := range m {
			fs = append(fs, filter{from: a}, filter{to: a})
		}
	}
	if l.release {
		fs = append(fs, filter{marked: true})
	}
	return fs, nil
}
