package bgp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"weft/internal/supervise"
	"weft/routing/bgp/speaker"
)

// askTimeout bounds a request where its context does not: a speaker that does not answer is a mistake.
const askTimeout = 60 * time.Second

// dial connects to a process, and makes sure that it is that one.
func dial(ctx context.Context, p *supervise.Process) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", p.Socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the BGP speaker (process %d): %w", p.PID, err)
	}
	u := c.(*net.UnixConn)
	if ok, err := p.Answers(ctx, u); err != nil || !ok {
		c.Close()
		return nil, errors.Join(fmt.Errorf("socket %s is not that of the BGP speaker, process %d", p.Socket, p.PID), err)
	}
	return u, nil
}

// ask sends one request and reads its answer, the errors of which are the error.
func ask(ctx context.Context, p *supervise.Process, request []byte) (reply speaker.Reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := dial(ctx, p)
	if err != nil {
		return reply, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	fail := func(err error) (speaker.Reply, error) {
		return reply, errors.Join(fmt.Errorf("ask the BGP speaker (process %d, log %s): %w", p.PID, p.Log, err), context.Cause(ctx))
	}
	if _, err := c.Write(append(request, '\n')); err != nil {
		return fail(err)
	}
	if err := json.NewDecoder(bufio.NewReader(c)).Decode(&reply); err != nil {
		return fail(err)
	}
	var errs []error
	for _, e := range reply.Errors {
		errs = append(errs, errors.New(e))
	}
	return reply, errors.Join(errs...)
}

// startFollowing reads what the speaker learns until d.follow is called.
func (d *Driver) startFollowing(p *supervise.Process) {
	ctx, cancel := context.WithCancel(context.Background())
	d.mu.Lock()
	d.to, d.settled = p, false
	d.mu.Unlock()
	var done sync.WaitGroup
	done.Go(func() {
		const pause = 200 * time.Millisecond
		for ctx.Err() == nil && p.Alive() {
			if err := d.read(ctx, p); err != nil && ctx.Err() == nil && p.Alive() {
				d.log.Warn("the BGP speaker's events stopped; asking for them again", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	})
	d.follow = func() {
		cancel()
		done.Wait()
	}
}

// read reads one stream of events, until it ends.
func (d *Driver) read(ctx context.Context, p *supervise.Process) error {
	c, err := dial(ctx, p)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	request, err := json.Marshal(speaker.Request{Watch: true})
	if err != nil {
		return err
	}
	if _, err := c.Write(append(request, '\n')); err != nil {
		return err
	}
	d.mu.Lock()
	d.stream++
	stream := d.stream
	d.mu.Unlock()
	in := json.NewDecoder(bufio.NewReaderSize(c, 1<<16))
	for {
		var e speaker.Event
		if err := in.Decode(&e); err != nil {
			return err
		}
		d.take(stream, e)
	}
}
