package kube

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// pageSize is how many objects one answer of a list brings.
const pageSize = 500

// listAttempts is how often List begins again when the server drops the revision it reads at.
const listAttempts = 3

// Get returns one resource, or datastore.ErrNotFound.
func (s *Store) Get(ctx context.Context, key datastore.Key) (v3.Object, error) {
	src, err := s.source(key.Kind)
	if err != nil {
		return nil, datastore.Wrap("get", key, err)
	}
	var o v3.Object
	if src.pods {
		o, err = s.getEndpoint(ctx, src, key)
	} else {
		o, err = s.get(ctx, src, key)
	}
	return o, datastore.Wrap("get", key, err)
}

func (s *Store) get(ctx context.Context, src *source, key datastore.Key) (v3.Object, error) {
	path, err := src.at(key, "")
	if err != nil {
		return nil, err
	}
	b, err := s.do(ctx, get(path))
	if err != nil {
		return nil, err
	}
	_, o, _, err := src.decode(b)
	return o, err
}

// List reads the kinds; each is consistent in itself.
func (s *Store) List(ctx context.Context, kinds ...string) (*datastore.List, error) {
	var err error
	for range listAttempts {
		all := &datastore.List{}
		err = s.ListPages(ctx, kinds, func(l *datastore.List) {
			all.Items, all.Rejected = append(all.Items, l.Items...), append(all.Rejected, l.Rejected...)
			all.Revision, all.History = l.Revision, l.History
		})
		if err == nil {
			return all, nil
		}
		if !errors.Is(err, datastore.ErrCompacted) {
			break
		}
	}
	return nil, err
}

// ListPages implements datastore.Pager. The pages of one kind are of one revision; each names the revisions of
// the kinds that were begun, and the last one those of all.
func (s *Store) ListPages(ctx context.Context, kinds []string, f func(*datastore.List)) error {
	if err := s.listPages(ctx, kinds, f); err != nil {
		return fmt.Errorf("list %s: %w", strings.Join(kinds, ", "), err)
	}
	return nil
}

func (s *Store) listPages(ctx context.Context, kinds []string, f func(*datastore.List)) error {
	if len(kinds) == 0 {
		return fmt.Errorf("no kind given: %w", datastore.ErrInvalid)
	}
	history, err := s.history(ctx)
	if err != nil {
		return err
	}
	at := revisions{map[string]string{}, history}
	for _, k := range kinds {
		src, err := s.source(k)
		if err != nil {
			return err
		}
		if err := s.listKind(ctx, src, at, f); err != nil {
			return err
		}
	}
	return nil
}

// listKind reads one kind and notes its revision in at.
func (s *Store) listKind(ctx context.Context, src *source, at revisions, f func(*datastore.List)) error {
	count, next := 0, ""
	for {
		p, err := s.page(ctx, src, pageSize, next)
		if err != nil {
			return err
		}
		if next == "" {
			at.of[src.kind] = p.revision
		}
		l := &datastore.List{Revision: at.String(), History: at.history, Items: make([]v3.Object, 0, len(p.items))}
		for _, c := range p.items {
			if c.Err != nil {
				l.Rejected = append(l.Rejected, datastore.Rejection{Key: c.Key, Err: c.Err, Revision: c.Revision})
			} else {
				l.Items = append(l.Items, c.Object)
			}
		}
		f(l)
		count += len(p.items)
		if next = p.next; next == "" {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed[src.kind] = listed{time.Now(), count}
	return nil
}

// page asks for one page of a list; a kind that is optional and not there is empty.
func (s *Store) page(ctx context.Context, src *source, limit int, next string) (*page, error) {
	r := get(src.path(src.namespace, "", ""))
	r.params = map[string]string{"limit": strconv.Itoa(limit)}
	if next != "" {
		r.params["continue"] = next
	}
	if src.fields != "" {
		r.params["fieldSelector"] = src.fields
	}
	switch {
	case src.pods:
		r.accept = protobufType
	case src.metadata:
		r.accept = metadataType
	}
	call, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	if src.pods {
		return s.podPage(call, r, src)
	}
	b, err := s.doOptional(call, r, src)
	switch {
	case err != nil:
		return nil, err
	case b == nil:
		return &page{revision: notThere}, nil
	}
	return src.decodePage(b)
}

// podPage asks for one page of the pods: of many megabytes only what is kept is ever in memory.
func (s *Store) podPage(ctx context.Context, r *request, src *source) (*page, error) {
	var p *page
	var strange error
	err := s.call(ctx, r, func(ctx context.Context) error {
		body, err := s.build(r).Stream(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }()
		p, strange = src.readPodPage(body)
		if broken := (errBroken{}); errors.As(strange, &broken) {
			return broken
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, strange
}

// doOptional is do, where nil stands for an optional kind that is not there.
func (s *Store) doOptional(ctx context.Context, r *request, src *source) ([]byte, error) {
	b, err := s.do(ctx, r)
	if err != nil && src.optional && errors.As(err, new(*absentError)) {
		return nil, nil
	}
	return b, err
}

// head returns the server's present revision of a kind.
func (s *Store) head(ctx context.Context, src *source) (string, error) {
	p, err := s.page(ctx, src, 1, "")
	if err != nil {
		return "", err
	}
	return p.revision, nil
}
