package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"weft/lab"
	"weft/node/datastore/etcd"
)

// withLab runs f with a lab of the layout and its store, and takes the lab down.
func withLab(ctx context.Context, name, layout string, progress io.Writer, f func(*lab.Lab, *etcd.Store) error) error {
	conf, err := lab.Parse([]byte(layout))
	if err != nil {
		return err
	}
	return withConfig(ctx, name, conf, progress, f)
}

// withConfig is withLab for a layout that was read.
func withConfig(ctx context.Context, name string, conf lab.Config, progress io.Writer, f func(*lab.Lab, *etcd.Store) error) (err error) {
	l, err := lab.New(name, lab.Options{Progress: progress})
	if err != nil {
		return err
	}
	if err := l.Up(ctx, conf, false); err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		_, downErr := l.Down(clean)
		err = errors.Join(err, downErr)
	}()
	store, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{l.StoreEndpoint()}})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	return f(l, store)
}

// pidOf returns the process of the lab's only node.
func pidOf(ctx context.Context, l *lab.Lab) (int, error) {
	st, err := l.Status(ctx)
	if err != nil || len(st.Nodes) != 1 || st.Nodes[0].PID == 0 {
		return 0, fmt.Errorf("find the node's process: %w", errors.Join(err, errors.New("it is not running")))
	}
	return st.Nodes[0].PID, nil
}
