package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/node/datastore"
)

// notThere is the revision of a kind that is not served, or not for us.
const notThere = "-"

// revisions are the revisions of several kinds, and what history they belong to. It is written
// "IPPool=12,Node=13@history".
type revisions struct {
	of      map[string]string
	history string
}

// String is the form that parseRevisions reads.
func (r revisions) String() string {
	parts := make([]string, 0, len(r.of))
	for _, k := range slices.Sorted(maps.Keys(r.of)) {
		parts = append(parts, k+"="+r.of[k])
	}
	return strings.Join(parts, ",") + "@" + r.history
}

func parseRevisions(s string) (revisions, error) {
	list, history, ok := strings.Cut(s, "@")
	r := revisions{map[string]string{}, history}
	for part := range strings.SplitSeq(list, ",") {
		kind, rev, is := strings.Cut(part, "=")
		ok = ok && is && kind != "" && rev != ""
		r.of[kind] = rev
	}
	if !ok {
		return r, fmt.Errorf("revision %q: want one that a list gave: %w", s, datastore.ErrInvalid)
	}
	return r, nil
}

// older tells that revision a is before b; false when they cannot be compared, which Kubernetes allows.
func older(a, b string) bool {
	x, err1 := strconv.ParseUint(a, 10, 64)
	y, err2 := strconv.ParseUint(b, 10, 64)
	return err1 == nil && err2 == nil && x < y
}

// history names what the server's revisions belong to.
func (s *Store) history(ctx context.Context) (string, error) {
	s.mu.Lock()
	uid, setBack := s.uid, s.setBack
	s.mu.Unlock()
	if uid == "" {
		var err error
		if uid, err = s.clusterUID(ctx); err != nil {
			return "", err
		}
		s.mu.Lock()
		s.uid = uid
		s.mu.Unlock()
	}
	return uid + "." + strconv.Itoa(setBack), nil
}

// clusterUID reads the identity of the cluster.
func (s *Store) clusterUID(ctx context.Context) (string, error) {
	b, err := s.do(ctx, get([]string{"/api/v1/namespaces/kube-system"}))
	if err != nil {
		return "", fmt.Errorf("read namespace kube-system, which identifies the cluster: %w", err)
	}
	var ns struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(b, &ns); err != nil || ns.Metadata.UID == "" {
		return "", fmt.Errorf("namespace kube-system has no UID (%w): this is no API server", err)
	}
	return ns.Metadata.UID, nil
}

// checkTime is for how long it is not asked again which cluster this is: watches of all kinds begin together.
const checkTime = time.Second

// sameHistory checks, with the server, that revisions of a history still mean something there.
func (s *Store) sameHistory(ctx context.Context, history string) error {
	s.mu.Lock()
	uid, begin := s.uid, time.Now()
	fresh := uid != "" && begin.Sub(s.checked) < checkTime
	s.mu.Unlock()
	if !fresh {
		var err error
		if uid, err = s.clusterUID(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fresh {
		s.uid, s.checked = uid, begin
	}
	if now := uid + "." + strconv.Itoa(s.setBack); now != history {
		return fmt.Errorf("this is another history (%s) than that of the revision (%s): %w", now, history, datastore.ErrCompacted)
	}
	return nil
}

// wentBack notes that the server's revision is before one that it gave earlier: its etcd was restored. All
// revisions of that history are worthless from now on.
func (s *Store) wentBack(history string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if history == s.uid+"."+strconv.Itoa(s.setBack) {
		s.setBack++
	}
}
