package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/node/cni/rpc"
	"weft/node/datastore"
)

const (
	// addTimeout bounds one ADD, CHECK or GC; weft-cni waits longer, so that the reason gets
	// through.
	addTimeout = 60 * time.Second
	// undoTimeout bounds the clean-up after a failed ADD.
	undoTimeout = 10 * time.Second
	// readyTimeout is how long ADD waits for a node that is not ready, readyPause the time between two
	// looks.
	readyTimeout, readyPause = 5 * time.Second, 20 * time.Millisecond
	// programTimeout is how long ADD repeats itself until the routes are there, programPause the
	// time between two attempts.
	programTimeout, programPause = 5 * time.Second, 10 * time.Millisecond
	// storeTimeout is how long DEL waits for the store before it leaves the rest to the background.
	storeTimeout = 3 * time.Second
	// retryMin and retryMax bound the pause between two attempts of the background.
	retryMin, retryMax = time.Second, 30 * time.Second
)

// errDead is what a Step function returns to end a call as if the process had died there.
var errDead = errors.New("the process is to be taken for dead")

// del detaches a container. It succeeds when there is nothing to detach, and when the kernel's
// part is done although the store is away: the rest is then in the journal.
func (s *Server) del(ctx context.Context, r *rpc.Request) error {
	conf, rerr := parseConf(r, s.cfg.Node)
	if rerr != nil {
		return rerr
	}
	// At DEL the arguments only help: the container may be known without them.
	pod, rerr := parseArgs(r)
	if rerr != nil {
		pod = podIdentity{"cni", "default", podOfContainer(r.ContainerID), ""}
	}
	a := s.newAttachment(r, conf.Name, pod)
	if known, there := s.cfg.Registry.get(a.key()); there {
		a = *known
	}
	unlock, err := s.lock(ctx, &a)
	if err != nil {
		return err
	}
	defer unlock()
	known, there := s.cfg.Registry.get(a.key())
	if !there {
		return s.detachUnknown(ctx, &a)
	}
	if known.Device != a.Device { // an ADD for another pod came in between, under the same container
		return rpc.Errorf(rpc.CodeTryAgain, "container %s was attached anew while DEL waited", a.ContainerID)
	}
	return s.detach(ctx, *known)
}

// detach removes link, record, addresses and journal entry, in this order, so that an address is
// free only when nothing has it. The container and the pod are locked.
func (s *Server) detach(ctx context.Context, a attachment) error {
	s.cfg.Registry.hide(a.key())
	if a.State != stateReleasing && !a.Superseded {
		if err := s.step(stepUnlink, func() error { return s.cfg.Links.Delete(ctx, a.Device) }); err != nil {
			return fmt.Errorf("remove the link of pod %s: %w", a.id(), err)
		}
	}
	err := s.giveBack(ctx, &a)
	if err == nil {
		return s.step(stepForget, func() error { return s.cfg.Registry.remove(a.key()) })
	}
	if errors.Is(err, errDead) {
		return err
	}
	s.log.Warn("cni: the store does not take back a pod's record and addresses; trying until it does",
		"container", a.ContainerID, "pod", a.id().String(), "err", err)
	a.State = stateReleasing
	if err := s.cfg.Registry.save(a); err != nil {
		return err
	}
	s.wakeReleaser()
	return nil
}

// giveBack removes record and addresses from the store, within storeTimeout.
func (s *Server) giveBack(ctx context.Context, a *attachment) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := s.step(stepUnname, func() error { return s.deleteRecord(ctx, a) })
	if err != nil {
		return fmt.Errorf("delete the record of pod %s: %w", a.id(), err)
	}
	err = s.step(stepRelease, func() error { return s.cfg.IPAM.Release(ctx, a.Handle) })
	if err != nil {
		return fmt.Errorf("release the addresses of pod %s (handle %s): %w", a.id(), a.Handle, err)
	}
	return nil
}

// detachUnknown deals with a container that the journal does not know: detached already, or the
// journal was lost. Only what is certain to be this container's is removed: addresses of its own
// handle, a record that names it, and the device of that record.
func (s *Server) detachUnknown(ctx context.Context, a *attachment) error {
	sctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, ours, err := s.getRecord(sctx, a)
	if err == nil && ours {
		if _, held := s.cfg.Registry.holder(a.Device); !held {
			if err := s.cfg.Links.Delete(ctx, a.Device); err != nil {
				return fmt.Errorf("remove the link of pod %s: %w", a.id(), err)
			}
		}
	}
	if err == nil {
		err = s.giveBack(ctx, a)
	}
	if err == nil || errors.Is(err, errDead) {
		return err
	}
	s.log.Warn("cni: the store does not tell whether an unknown container has addresses; trying until it does",
		"container", a.ContainerID, "err", err)
	pending := *a
	pending.State = stateReleasing
	if err := s.cfg.Registry.save(pending); err != nil {
		return err
	}
	s.wakeReleaser()
	return nil
}

// gc removes what the runtime does not list (CNI specification 1.1, section 2, GC): attachments of
// this network only.
func (s *Server) gc(ctx context.Context, r *rpc.Request) error {
	conf, rerr := parseConf(r, s.cfg.Node)
	if rerr != nil {
		return rerr
	}
	if conf.ValidAttachments == nil {
		return rpc.Errorf(rpc.CodeInvalidConfig, "network configuration: cni.dev/valid-attachments is missing: GC would remove everything")
	}
	valid := map[key]bool{}
	for _, v := range *conf.ValidAttachments {
		valid[key{v.ContainerID, v.IfName}] = true
	}
	var g errgroup.Group
	g.SetLimit(gcParallel)
	errs := make(chan error, maxCalls)
	go func() {
		for _, a := range s.cfg.Registry.list() {
			if a.Network == conf.Name && !valid[a.key()] && !s.isAdding(a.key()) {
				g.Go(func() error {
					if err := s.collect(ctx, a); err != nil {
						errs <- err
					}
					return nil
				})
			}
		}
		_ = g.Wait()
		close(errs)
	}()
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

const gcParallel = 8

// collect detaches one attachment that the runtime does not know, unless it changed since.
func (s *Server) collect(ctx context.Context, a *attachment) error {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return err
	}
	defer unlock()
	now, there := s.cfg.Registry.get(a.key())
	if !there || now.Created != a.Created {
		return nil
	}
	s.log.Info("gc: the runtime does not know a container", "container", a.ContainerID, "pod", a.id().String())
	return s.detach(ctx, *now)
}

// status says whether pods can be attached (CNI specification 1.1, section 2, STATUS).
func (s *Server) status(r *rpc.Request) error {
	if _, err := parseConf(r, s.cfg.Node); err != nil {
		return err
	}
	err := s.cfg.Ready()
	if err == nil {
		_, err = s.cfg.MTU()
	}
	if err == nil {
		return nil
	}
	code := uint(rpc.CodeNotAvailable)
	if errors.Is(err, ErrLimited) {
		code = rpc.CodeLimited
	}
	return rpc.Errorf(code, "node %s: %v", s.cfg.Node, err)
}

// isTemporary tells whether trying again later may help.
func isTemporary(err error) bool {
	return errors.Is(err, datastore.ErrUnavailable) || errors.Is(err, datastore.ErrConflict) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded)
}
