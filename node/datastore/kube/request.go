package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"weft/node/datastore"
)

const (
	jsonType     = "application/json"
	protobufType = "application/vnd.kubernetes.protobuf"
	metadataType = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	// maxPatience is the longest pause that the API server may ask for.
	maxPatience = time.Minute
)

// gate holds calls back while the API server asks for it (429 with Retry-After).
type gate struct {
	mu    sync.Mutex
	until time.Time
}

func (g *gate) shut(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := time.Now().Add(min(d, maxPatience)); t.After(g.until) {
		g.until = t
	}
}

// errHeldBack: the pause that the server asked for is longer than the caller has time.
var errHeldBack = errors.New("the server asks to be left alone for longer than this call may take")

func (g *gate) wait(ctx context.Context) error {
	g.mu.Lock()
	d := time.Until(g.until)
	g.mu.Unlock()
	if d <= 0 {
		return ctx.Err()
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return errHeldBack
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// request describes one call.
type request struct {
	verb   string // of HTTP
	path   []string
	params map[string]string
	accept string
	body   []byte
	patch  string // content type of the body; empty: JSON
}

func (s *Store) build(r *request) *rest.Request {
	req := s.client.Verb(r.verb).AbsPath(r.path...).MaxRetries(0)
	accept := r.accept
	if accept == "" {
		accept = jsonType
	}
	req.SetHeader("Accept", accept)
	for k, v := range r.params {
		req.Param(k, v)
	}
	if r.body != nil {
		content := r.patch
		if content == "" {
			content = jsonType
		}
		req.SetHeader("Content-Type", content).Body(r.body)
	}
	return req
}

// do makes one call and returns the answer.
func (s *Store) do(ctx context.Context, r *request) (body []byte, err error) {
	err = s.call(ctx, r, func(ctx context.Context) error {
		result := s.build(r).Do(ctx)
		body, _ = result.Raw()
		return result.Error()
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

// call has f make one call within RequestTimeout. What the server refused without doing it, for being too busy, is
// asked again when it says.
func (s *Store) call(ctx context.Context, r *request, f func(context.Context) error) error {
	call, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	stop := context.AfterFunc(s.closed, cancel)
	defer stop()
	for {
		err := s.gate.wait(call)
		if err == nil {
			err = f(call)
		}
		if err == nil {
			return nil
		}
		if !s.tooBusy(err) || errors.Is(err, errHeldBack) {
			return s.explain(ctx, r, err)
		}
	}
}

// tooBusy tells that the server did not take a call, and shuts the gate for as long as it says.
func (s *Store) tooBusy(err error) bool {
	if !apierrors.IsTooManyRequests(err) {
		return false
	}
	seconds, _ := apierrors.SuggestsClientDelay(err)
	s.gate.shut(max(time.Duration(seconds)*time.Second, 100*time.Millisecond))
	return true
}

// explain turns what the API server and the network answer into this project's errors.
func (s *Store) explain(ctx context.Context, r *request, err error) error {
	at := "Kubernetes at " + s.server
	var known error
	for _, e := range []error{datastore.ErrCompacted, datastore.ErrInvalid, datastore.ErrUnavailable} {
		if errors.Is(err, e) {
			return err
		}
	}
	switch {
	case s.closed.Err() != nil:
		return errors.New("the store is closed")
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%s: %w", at, ctx.Err())
	case notServed(err):
		return &absentError{fmt.Sprintf("%s does not know %s: apply manifests/crds", at, strings.Join(r.path, "/"))}
	case apierrors.IsNotFound(err):
		return datastore.ErrNotFound
	case apierrors.IsAlreadyExists(err):
		return datastore.ErrAlreadyExists
	case apierrors.IsConflict(err):
		known = datastore.ErrConflict
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		known = datastore.ErrInvalid
	case apierrors.IsGone(err), apierrors.IsResourceExpired(err):
		known = datastore.ErrCompacted
	case apierrors.IsForbidden(err):
		return &absentError{fmt.Sprintf("%s refuses: %s: check the roles that this user is bound to", at, text(err))}
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not accept the credentials: renew the kubeconfig or the token", at)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer within %v: %w", at, s.cfg.RequestTimeout, datastore.ErrUnavailable)
	default:
		known = datastore.ErrUnavailable
	}
	return fmt.Errorf("%s: %s: %w", at, text(err), known)
}

// notServed tells that the API server has no such resource, rather than no object of that name.
func notServed(err error) bool {
	var s apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &s) || s.Status().Details == nil {
		return false
	}
	for _, c := range s.Status().Details.Causes {
		if c.Type == metav1.CauseTypeUnexpectedServerResponse {
			return true
		}
	}
	return false
}

// absentError: a resource is not there for us. It is not served, or we may not use it.
type absentError struct{ text string }

// Error says which, and what to do.
func (e *absentError) Error() string { return e.text }

// text is the part of an error that is not known to the reader already.
func text(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Error()
	}
	return err.Error()
}

// get is the request that reads a path.
func get(path []string) *request { return &request{verb: http.MethodGet, path: path} }
