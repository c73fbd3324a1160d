package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// write is what one transaction does if all its conditions hold. The keys of puts and dels are
// among those of the conditions.
type write struct {
	conds []cond
	puts  []put
	dels  []string
}

// cond asks that a key has a modification revision; 0: that it is not there. With all it asks that no
// key which begins with it has been written since that revision; who writes one of those and the write
// with this condition must have another condition's key in common (see take).
type cond struct {
	key string
	rev int64
	all bool
}

type put struct {
	key  string
	data []byte
}

func (w *write) bytes() int {
	n := 0
	for i := range w.puts {
		n += len(w.puts[i].data)
	}
	return n
}

func (w *write) parts() (cmps []clientv3.Cmp, then, otherwise []clientv3.Op) {
	for _, c := range w.conds {
		if c.all {
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.key).WithPrefix(), "<", c.rev+1))
			otherwise = append(otherwise, clientv3.OpGet(c.key, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly()))
			continue
		}
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.key), "=", c.rev))
		otherwise = append(otherwise, clientv3.OpGet(c.key, clientv3.WithKeysOnly()))
	}
	for _, p := range w.puts {
		then = append(then, clientv3.OpPut(p.key, string(p.data)))
	}
	for _, d := range w.dels {
		then = append(then, clientv3.OpDelete(d))
	}
	return cmps, then, otherwise
}

// Bounds of what goes to the server together. Two groups are under way at most: while the server
// makes one durable the next one gathers, and one that is small does not wait for one that is not.
const (
	maxGroup       = 48
	maxGroupBytes  = 256 << 10
	maxGroupKeys   = 96
	groupsUnderWay = 2
)

// graceTime is how long a caller whose context ended still waits for a write that is under way.
const graceTime = 100 * time.Millisecond

// commits gathers the writes of concurrent callers. Each is a transaction of its own, nested in one
// that the server takes, makes durable and answers once: 32 pods that start at once cost a handful
// of calls.
type commits struct {
	wg sync.WaitGroup

	mu       sync.Mutex
	waiting  []*pending
	underWay int
	closed   bool
}

// pending is one caller's write. What follows done is set before that is closed.
type pending struct {
	write write
	done  chan struct{}
	rev   int64   // new revision; 0: a condition did not hold
	now   []int64 // revisions of the conditions' keys, 0 for those that are not there
	err   error
}

// commit writes if the conditions hold, and returns the new revision. Otherwise it returns 0 and
// the revisions that the conditions' keys have, 0 for one that is not there.
func (s *Store) commit(ctx context.Context, w write) (rev int64, now []int64, err error) {
	call, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	p := &pending{write: w, done: make(chan struct{})}
	c := &s.commits
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, nil, errClosed
	}
	c.waiting = append(c.waiting, p)
	if c.underWay < groupsUnderWay {
		c.underWay++
		c.wg.Go(s.commitAll)
	}
	c.mu.Unlock()
	select {
	case <-p.done:
		return p.rev, p.now, p.err
	case <-call.Done():
	}
	if !c.abandon(p) { // under way, for others too: an outcome that is about to be known is worth a moment
		select {
		case <-p.done:
			return p.rev, p.now, p.err
		case <-time.After(graceTime):
		}
	}
	return 0, nil, s.explain(ctx, call.Err())
}

// close lets nothing more in and waits for what is under way.
func (c *commits) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
}

// abandon takes a write whose caller has gone out of the queue, and tells whether it was there.
func (c *commits) abandon(p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.waiting {
		if c.waiting[i] == p {
			c.waiting = append(c.waiting[:i:i], c.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// commitAll writes until nothing waits.
func (s *Store) commitAll() {
	for {
		group := s.commits.take()
		if len(group) == 0 {
			return
		}
		// The callers wait with contexts of their own; this one serves all of them.
		err := s.do(context.Background(), func(ctx context.Context, c *clientv3.Client) error { return send(ctx, c, group) })
		for _, p := range group {
			p.err = err
			close(p.done)
		}
	}
}

// take returns the writes that go together next: no two of them have a key in common, since all
// conditions are judged before anything is written.
func (c *commits) take() []*pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	var group, rest []*pending
	keys, bytes := map[string]bool{}, 0
	for _, p := range c.waiting {
		fits := len(group) < maxGroup && len(keys)+len(p.write.conds) <= maxGroupKeys && bytes+p.write.bytes() <= maxGroupBytes
		for _, k := range p.write.conds {
			fits = fits && !keys[k.key]
		}
		if !fits && len(group) > 0 {
			rest = append(rest, p)
			continue
		}
		group = append(group, p)
		bytes += p.write.bytes()
		for _, k := range p.write.conds {
			keys[k.key] = true
		}
	}
	if c.waiting = rest; len(group) == 0 {
		c.underWay--
	}
	return group
}

// send makes the writes of a group in one call.
func send(ctx context.Context, c *clientv3.Client, group []*pending) error {
	if len(group) == 1 {
		cmps, then, otherwise := group[0].write.parts()
		resp, err := c.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
		if err == nil {
			group[0].answer(resp.Header.Revision, resp.Succeeded, resp.Responses)
		}
		return err
	}
	ops := make([]clientv3.Op, len(group))
	for i, p := range group {
		ops[i] = clientv3.OpTxn(p.write.parts())
	}
	resp, err := c.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return err
	}
	for i, p := range group {
		r := resp.Responses[i].GetResponseTxn()
		p.answer(resp.Header.Revision, r.GetSucceeded(), r.GetResponses())
	}
	return nil
}

func (p *pending) answer(rev int64, succeeded bool, responses []*pb.ResponseOp) {
	if succeeded {
		p.rev = rev
		return
	}
	p.now = make([]int64, len(p.write.conds))
	for i := range p.now {
		if kvs := responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			p.now[i] = kvs[0].ModRevision
		}
	}
}
