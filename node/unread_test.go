package node

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// TestUnreadSettings: a FelixConfiguration that cannot be read, with no earlier one, does not switch encryption off.
func TestUnreadSettings(t *testing.T) {
	felix := func(name string, err error) datastore.Change {
		ch := datastore.Change{Key: datastore.Key{Kind: v3.KindFelixConfiguration, Name: name}, Err: err}
		if err == nil {
			o := &v3.FelixConfiguration{}
			o.Name = name
			ch.Object = o
		}
		return ch
	}
	bad := errors.New("unknown field")
	on, off := &encryptor{rollout: rollout{Since: time.Unix(7, 0)}}, &encryptor{}
	for what, tc := range map[string]struct {
		changes []datastore.Change
		waits   bool
	}{
		"nothing":              {nil, false},
		"unreadable":           {[]datastore.Change{felix("default", bad)}, true},
		"this node's":          {[]datastore.Change{felix("node.n1", bad)}, true},
		"another node's":       {[]datastore.Change{felix("node.n2", bad)}, false},
		"an earlier one holds": {[]datastore.Change{felix("default", nil), felix("default", bad)}, false},
		"corrected":            {[]datastore.Change{felix("default", bad), felix("default", nil)}, false},
		"deleted":              {[]datastore.Change{felix("default", bad), {Key: felix("default", bad).Key}}, false},
	} {
		c := newCluster("n1", slog.New(slog.DiscardHandler), func(bool) {})
		c.OnChanges(tc.changes)
		err := on.wait(c.unread())
		if (err != nil) != tc.waits || err != nil && !strings.Contains(err.Error(), "unknown field") {
			t.Errorf("%s, encryption was on: %v", what, err)
		}
		if err := off.wait(c.unread()); err != nil {
			t.Errorf("%s, encryption was off: %v", what, err)
		}
	}
}
