package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"weft/node/status"
)

const (
	readyPoll  = 25 * time.Millisecond
	probeLimit = 2 * time.Second
	// probeBytes bounds the answer of a readiness probe.
	probeBytes = 64 << 10
)

// NotReadyError says why a process of the lab is not ready, with the end of its log.
type NotReadyError struct {
	Node string
	Why  string
	Log  []string
}

// Error prints one line, without the log.
func (e *NotReadyError) Error() string { return fmt.Sprintf("%s is not ready: %s", e.Node, e.Why) }

// waitStore waits until the store accepts connections.
func (l *Lab) waitStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", storeSocket(l.dir))
		if err == nil {
			return c.Close()
		}
		if err := l.waitMore(ctx, storeName, err); err != nil {
			return err
		}
	}
}

// waitReady waits until a node says that it is ready.
func (l *Lab) waitReady(ctx context.Context, node string) error {
	for {
		why := l.probe(ctx, node)
		if why == nil {
			return nil
		}
		if err := l.waitMore(ctx, node, why); err != nil {
			return err
		}
	}
}

// waitMore waits a moment, or gives up when the process has ended or the time is over.
func (l *Lab) waitMore(ctx context.Context, name string, why error) error {
	dir := nodeDir(l.dir, name)
	var r procRecord
	if err := readJSON(procPath(l.dir, name), &r); err != nil {
		return err
	}
	if !r.alive() {
		return &NotReadyError{name, "its process has ended", tail(dir)}
	}
	if sleep(ctx, readyPoll) {
		return nil
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return &NotReadyError{name, fmt.Sprintf("after %v: %v", ReadyTimeout, why), tail(dir)}
	}
	return context.Cause(ctx)
}

// probe asks a node whether it is ready; nil says yes, an error says why not.
func (l *Lab) probe(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	socket := filepath.Join(l.NodeRunDir(node), status.SocketName)
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://unix/readyz?verbose", nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", socket, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, probeBytes))
	if err != nil {
		return fmt.Errorf("ask %s: %w", socket, err)
	}
	if res.StatusCode == http.StatusOK {
		return nil
	}
	return errors.New(failedChecks(string(body), res.Status))
}

// failedChecks picks the lines of failed checks ("[-]name reason") out of a verbose answer; without
// any, the first line, and without that the HTTP status.
func failedChecks(body, httpStatus string) string {
	var failed []string
	for _, line := range strings.Split(body, "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "[-]"); ok {
			failed = append(failed, strings.TrimSpace(rest))
		}
	}
	if len(failed) > 0 {
		return strings.Join(failed, "; ")
	}
	if first, _, _ := strings.Cut(strings.TrimSpace(body), "\n"); first != "" {
		return first
	}
	return httpStatus
}
