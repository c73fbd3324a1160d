package wireguard

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"weft/encryption"
	"weft/model"
)

// picky is a device that refuses one peer, as a whole message, and may be changed by others.
type picky struct {
	refuses model.PublicKey
	foreign bool
	has     []model.PublicKey
}

func (p *picky) read(context.Context, string) (*state, error) {
	return &state{peers: map[model.PublicKey]peerState{}}, nil
}

func (p *picky) write(_ context.Context, _ string, before uint64, c change) (uint64, bool, error) {
	if slices.ContainsFunc(c.peers, func(x peerChange) bool { return x.key == p.refuses }) {
		return 0, false, errors.New("invalid argument")
	}
	for _, x := range c.peers {
		p.has = append(p.has, x.key)
	}
	return before + 2, p.foreign, nil
}

func (*picky) close() {}

// TestOnePeerThatCannotBeWritten: the others are, and the error names it.
func TestOnePeerThatCannotBeWritten(t *testing.T) {
	d := New(nil, slog.New(slog.DiscardHandler), Options{})
	c := &picky{refuses: peerKey(2)}
	d.control = c
	changes := change{peers: []peerChange{{key: peerKey(1), node: "a"}, {key: peerKey(2), node: "b"}, {key: peerKey(3), node: "c"}}}
	device := &encryption.Device{Name: wg}
	_, err := d.write(context.Background(), device, 0, changes)
	if err == nil || !strings.Contains(err.Error(), "peer b: invalid argument") || strings.Contains(err.Error(), "peer a") {
		t.Errorf("the error: %v", err)
	}
	if !slices.Equal(c.has, []model.PublicKey{peerKey(1), peerKey(3)}) {
		t.Errorf("the device has %v", c.has)
	}
	c.refuses, c.foreign = model.PublicKey{}, true
	if now, err := d.write(context.Background(), device, 0, changes); err != nil || now != foreignRevision {
		t.Errorf("somebody else changed the device, too: revision %d, %v", now, err)
	}
}
