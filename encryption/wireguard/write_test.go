package wireguard

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

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

// TestPeerTwice: what is said of a peer second is not lost, and comes second.
func TestPeerTwice(t *testing.T) {
	port, on, off := 1, time.Second, time.Duration(0)
	cfg := wgtypes.Config{ListenPort: &port}
	for i := range 100 {
		cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(peerKey(i)), PersistentKeepaliveInterval: &on})
	}
	for i := range 100 {
		cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(peerKey(i)), PersistentKeepaliveInterval: &off})
	}
	got := parts(cfg)
	if len(got) != 2 || len(got[0].Peers) != 100 || len(got[1].Peers) != 100 || got[0].ListenPort == nil || got[1].ListenPort != nil {
		t.Fatalf("%d parts: %+v", len(got), got)
	}
	if *got[0].Peers[7].PersistentKeepaliveInterval != on || *got[1].Peers[7].PersistentKeepaliveInterval != off {
		t.Error("the order is another")
	}
	if got := parts(wgtypes.Config{ListenPort: &port}); len(got) != 1 || got[0].ListenPort == nil {
		t.Errorf("a configuration without peers: %+v", got)
	}
}

// FuzzAnswer: whatever a process answers, it is read or refused, and a refusal does not show keys.
func FuzzAnswer(f *testing.F) {
	secret := strings.Repeat("5e", 32)
	f.Add("private_key=" + secret + "\nlisten_port=1\npublic_key=" + secret + "\nendpoint=[::1]:2\nallowed_ip=10.0.0.0/8\nerrno=0\n\n")
	f.Add("private_key=" + secret + "00\nerrno=0\n\n")
	f.Add("errno=-98\n\n")
	f.Add("public_key=\nlast_handshake_time_sec=x\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		p := parser{s: &state{peers: map[model.PublicKey]peerState{}}}
		e := exchange{r: bufio.NewReader(strings.NewReader(text))}
		if err := e.answer(p.line); err != nil && strings.Contains(err.Error(), secret[:16]) {
			t.Errorf("the error shows a key: %v", err)
		}
		_ = p.end()
	})
}
