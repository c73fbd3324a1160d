package etcd

import (
	"fmt"
	"strings"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// layout maps resources to keys of etcd and back.
type layout struct {
	prefix   string
	byKind   map[string]v3.KindInfo
	byPlural map[string]v3.KindInfo
}

func newLayout(prefix string) layout {
	l := layout{prefix, map[string]v3.KindInfo{}, map[string]v3.KindInfo{}}
	for _, k := range v3.Kinds() {
		k.Columns = nil
		l.byKind[k.Kind], l.byPlural[k.Plural] = k, k
	}
	return l
}

func (l layout) lookup(kind string) (v3.KindInfo, error) {
	if k, ok := l.byKind[kind]; ok {
		return k, nil
	}
	return v3.KindInfo{}, fmt.Errorf("kind %q is not known here: %w", kind, datastore.ErrInvalid)
}

// root is what all resources are below.
func (l layout) root() string { return l.prefix + "/v1/" }

// guard is a key outside of root that every write of the kind replaces: who has read all resources
// of the kind can write on condition that none has changed since.
func (l layout) guard(plural string) string { return l.prefix + "/guard/" + plural }

// kind returns what all resources of a kind are below.
func (l layout) kind(kind string) (string, error) {
	k, err := l.lookup(kind)
	if err != nil {
		return "", err
	}
	return l.root() + k.Plural + "/", nil
}

// key returns the key of one resource.
func (l layout) key(k datastore.Key) (string, error) {
	info, err := l.lookup(k.Kind)
	if err != nil {
		return "", err
	}
	if err := checkPart("name", k.Name); err != nil {
		return "", err
	}
	base := l.root() + info.Plural + "/"
	if !info.Namespaced {
		if k.Namespace != "" {
			return "", fmt.Errorf("%s is not namespaced, yet namespace %q is given: %w", k.Kind, k.Namespace, datastore.ErrInvalid)
		}
		return base + k.Name, nil
	}
	if err := checkPart("namespace", k.Namespace); err != nil {
		return "", err
	}
	return base + k.Namespace + "/" + k.Name, nil
}

// checkPart keeps a name from reaching into another's place; the full rule for names is the
// kind's own.
func checkPart(what, s string) error {
	if s == "" {
		return fmt.Errorf("%s is empty: %w", what, datastore.ErrInvalid)
	}
	if len(s) > 253 {
		return fmt.Errorf("%s %.20q... has %d characters, at most 253 are allowed: %w", what, s, len(s), datastore.ErrInvalid)
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return fmt.Errorf("%s %q: character %q is not allowed: %w", what, s, c, datastore.ErrInvalid)
		}
	}
	return nil
}

// parse reads a key of etcd. ok is false when it is no resource of a known kind: not ours to
// judge. err is set when it lies in a kind's place and yet names no resource; the Key then holds
// what is there.
func (l layout) parse(key string) (k datastore.Key, ok bool, err error) {
	rest, found := strings.CutPrefix(key, l.root())
	if !found {
		return datastore.Key{}, false, nil
	}
	plural, rest, found := strings.Cut(rest, "/")
	if !found {
		return datastore.Key{}, false, nil
	}
	info, known := l.byPlural[plural]
	if !known {
		return datastore.Key{}, false, nil
	}
	k = datastore.Key{Kind: info.Kind, Name: rest}
	if info.Namespaced {
		ns, name, found := strings.Cut(rest, "/")
		if !found {
			return k, true, fmt.Errorf("key %q has no namespace: remove it with etcdctl", key)
		}
		k.Namespace, k.Name = ns, name
	}
	if back, err := l.key(k); err != nil || back != key {
		return k, true, fmt.Errorf("key %q does not name a resource: remove it with etcdctl", key)
	}
	return k, true, nil
}
