package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v3 "weft/api/v3"
	"weft/encryption"
	"weft/encryption/keys"
	"weft/encryption/wireguard"
	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/model/topology"
	"weft/node/config"
	"weft/tunnel"
)

// encryptor is this node's side of encryption: its keys, whom it has met, and how far the rollout is.
type encryptor struct {
	log     *slog.Logger
	keys    keys.Dir
	path    string // of the rollout's memory
	devices devices
	grace   time.Duration
	again   func() // asks for another run
	publish func() // asks the publisher to look

	mu      sync.Mutex
	gen     uint64 // counts what compilers see
	rollout rollout
	written rollout                // what the file says
	trouble error                  // of writing it
	met     map[model.Meeting]bool // nil: the devices that an earlier process left were not asked yet
	due     *time.Timer            // calls again when the rollout may go on by itself
	have    struct {               // what the keys are of
		asked  encryption.KeyState
		sound  bool // false: ask again
		byWhat map[int]encryption.PrivateKey
		public []v3.NodeKey
	}
	unmet int           // peers that have not answered yet
	poke  chan struct{} // of capacity 1: there are more of them
}

// devices is the driver's part that tells whom it has met.
type devices interface {
	Peers(context.Context) ([]wireguard.PeerStatus, error)
	Left(context.Context) ([]wireguard.PeerStatus, error)
}

func newEncryptor(cfg *config.Config, d devices, log *slog.Logger, again, publish func()) *encryptor {
	x := &encryptor{log: log, keys: keys.In(cfg.DataDir), path: filepath.Join(cfg.DataDir, "encryption", "rollout.json"), devices: d,
		grace: cfg.EncryptionGrace, again: again, publish: publish, gen: 1, poke: make(chan struct{}, 1)}
	text, err := os.ReadFile(x.path)
	if errors.Is(err, fs.ErrNotExist) {
		return x
	}
	if err == nil {
		err = json.Unmarshal(text, &x.rollout)
	}
	if err != nil {
		// What it said is not known: then it is as if encryption was switched on long ago.
		log.Warn("how far encryption has come is not known: nothing of pods is sent in clear where it is on; to hosts, until they were reached in cipher text again", "file", x.path, "err", err)
		x.rollout = rollout{Since: time.Unix(1, 0), Over: true}
		return x
	}
	x.written = x.rollout
	return x
}

// wait is an error where encryption was on and the resources do not say whether it still is: deciding that it is off
// would send in clear what must not be.
func (x *encryptor) wait(unread error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if unread == nil || x.rollout.Since.IsZero() {
		return nil
	}
	return fmt.Errorf("%w: encryption was on, so everything stays as it is until it can be read: correct it, or delete it", unread)
}

// generation tells whether state would return something new.
func (x *encryptor) generation() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.gen
}

// state is what the compilers of s are to know, and its generation. The first call asks the devices that an
// earlier process left whom they have met: else what goes by them would look for another way.
func (x *encryptor) state(ctx context.Context, s *model.Snapshot) (model.EncryptionState, uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.met == nil {
		x.met = x.left(ctx, s)
	}
	st := x.rollout.state()
	st.Met = x.met
	return st, x.gen
}

func (x *encryptor) left(ctx context.Context, s *model.Snapshot) map[model.Meeting]bool {
	met := map[model.Meeting]bool{}
	if x.devices == nil {
		return met
	}
	peers, err := x.devices.Left(ctx)
	if err != nil {
		x.log.Warn("the WireGuard devices that were left cannot be asked for their peers", "err", err)
	}
	type owner struct {
		node  model.NodeName
		epoch int
	}
	owners := map[model.PublicKey]owner{}
	for name, n := range s.Nodes {
		for _, k := range n.Keys {
			owners[k.Key] = owner{name, k.Epoch}
		}
	}
	for i := range peers {
		p := &peers[i]
		o, ok := owners[p.Key]
		if !ok || p.LastHandshake.IsZero() {
			continue
		}
		for _, f := range []model.Family{model.IPv4, model.IPv6} {
			if e := (model.TunnelEnd{Encap: model.EncapWireGuard, Family: f, Port: p.Port, Epoch: o.epoch}); topology.WireGuardDevice(e) == p.Device {
				met[model.Meeting{Node: o.node, End: e}] = true
			}
		}
	}
	return met
}

// plan makes the keys that v needs and says what devices and peers there are to be.
func (x *encryptor) plan(s *model.Snapshot, v *topology.View) (encryption.Plan, error) {
	byEpoch, err := x.follow(s, v)
	p, planErr := encryption.Compile(v, s.Encryption, byEpoch)
	return p, errors.Join(err, planErr)
}

// follow has the keys be what they should be, and returns them.
func (x *encryptor) follow(s *model.Snapshot, v *topology.View) (map[int]encryption.PrivateKey, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	want := encryption.KeyState{Wanted: s.Encryption.Any() && x.devices != nil, Epoch: s.Encryption.Epoch, InUse: epochs(s.Nodes[s.Self], v)}
	if x.have.sound && sameKeyState(x.have.asked, want) {
		return x.have.byWhat, nil
	}
	x.have.asked, x.have.sound = want, false
	var err error
	if want.Have, err = x.keys.Epochs(); err != nil {
		x.gen++
		return x.have.byWhat, err
	}
	steps := encryption.NextKeys(want)
	before := x.have.byWhat
	x.have.byWhat, err = x.keys.Follow(steps)
	for _, epoch := range steps.Use {
		// A file that cannot be read now, but could be, leaves the device that has its key alone.
		if k, had := before[epoch]; had && x.have.byWhat[epoch].IsZero() {
			x.have.byWhat[epoch] = k
		}
	}
	if x.have.sound = err == nil; err != nil {
		x.gen++ // the next run tries again
	}
	var public []v3.NodeKey
	for _, epoch := range slices.Sorted(maps.Keys(x.have.byWhat)) {
		k, keyErr := x.have.byWhat[epoch].Public()
		if keyErr != nil {
			err = errors.Join(err, keyErr)
			continue
		}
		public = append(public, v3.NodeKey{Epoch: epoch, PublicKey: k.String()})
	}
	if !slices.Equal(public, x.have.public) || x.have.public == nil {
		x.have.public = append([]v3.NodeKey{}, public...)
		x.publish()
	}
	return x.have.byWhat, err
}

func sameKeyState(a, b encryption.KeyState) bool {
	return a.Wanted == b.Wanted && a.Epoch == b.Epoch && slices.Equal(a.InUse, b.InUse)
}

// epochs lists, sorted, the epochs that this node has devices of or promises to have.
func epochs(self *model.Node, v *topology.View) []int {
	var out []int
	add := func(e model.TunnelEnd) {
		if e.Encap == model.EncapWireGuard && !slices.Contains(out, e.Epoch) {
			out = append(out, e.Epoch)
		}
	}
	for i := range v.Tunnels {
		add(v.Tunnels[i].End)
	}
	if self != nil && self.Tunnels != nil {
		for _, e := range slices.Concat(self.Tunnels.Receives, self.Tunnels.Sends) {
			add(e)
		}
	}
	slices.Sort(out)
	return out
}

// published returns the public keys that this node's record is to have; ok is false before the first run.
func (x *encryptor) published() (keys []v3.NodeKey, current string, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range x.have.public {
		if k.Epoch == x.have.asked.Epoch {
			current = k.PublicKey
		}
	}
	return x.have.public, current, x.have.public != nil
}

// ran notes what a run has done.
func (x *encryptor) ran(p *plans, settled bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	next := x.rollout.next(p.snapshot, p.view, settled, now, x.grace)
	if next.Over && !x.rollout.Over {
		x.log.Info("encryption is on for good: nothing that is to be encrypted goes in clear from here on")
	}
	x.trouble = nil
	if !next.lasting(x.written) {
		if err := x.remember(next); err != nil {
			x.trouble = fmt.Errorf("write down how far encryption has come: %w; after a restart it begins anew", err)
			x.log.Warn("cannot be done", "part", "encryption", "err", x.trouble)
		} else {
			x.written = next
		}
	}
	if !next.same(x.rollout) {
		x.gen++
		x.again()
	}
	x.rollout = next
	if x.due != nil {
		x.due.Stop()
	}
	if wait := next.wait(now, x.grace); wait > 0 {
		x.due = time.AfterFunc(wait, func() { x.mu.Lock(); x.gen++; x.mu.Unlock(); x.again() })
	}
	if len(p.encryption.Devices) == 0 {
		x.met = map[model.Meeting]bool{}
	}
	before := x.unmet
	x.unmet = 0
	for i := range p.encryption.Peers {
		if q := &p.encryption.Peers[i]; !x.met[meeting(p.view, q)] {
			x.unmet++
		}
	}
	if x.unmet > before {
		select {
		case x.poke <- struct{}{}:
		default:
		}
	}
}

// problems returns sentences about what does not work, but keeps nothing else from working.
func (x *encryptor) problems() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.trouble == nil {
		return nil
	}
	return []string{x.trouble.Error()}
}

// meeting names a peer of a device as the compilers do.
func meeting(v *topology.View, p *encryption.Peer) model.Meeting {
	return model.Meeting{Node: p.Node, End: endOf(v, p.Device)}
}

func endOf(v *topology.View, device string) model.TunnelEnd {
	for i := range v.Tunnels {
		if v.Tunnels[i].Device == device {
			return v.Tunnels[i].End
		}
	}
	return model.TunnelEnd{}
}

// remember writes a rollout down, so that the file is whole or as it was.
func (x *encryptor) remember(r rollout) error {
	if r.Since.IsZero() {
		err := os.Remove(x.path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(x.path), 0o700); err != nil {
		return err
	}
	return writeWhole(x.path, append(text, '\n'))
}

// writeWhole writes a file so that, also after a power cut, it is as before or whole.
func writeWhole(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// How often the devices are asked whether a peer has answered, as long as one has not: at first, later,
// and no more often than one part in askShare of a processor.
const (
	askFirst = 50 * time.Millisecond
	askLater = 5 * time.Second
	askShare = 100
)

// run asks the devices whom they have met, as long as somebody is waited for, until ctx ends. view returns
// the plans of the last run.
func (x *encryptor) run(ctx context.Context, current func() *plans) error {
	pause := askFirst
	for {
		x.mu.Lock()
		waiting := x.unmet > 0
		x.mu.Unlock()
		if !waiting {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-x.poke:
				pause = askFirst
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		case <-x.poke:
			pause = askFirst
			continue
		}
		begin := time.Now()
		if x.ask(ctx, current()) {
			pause = askFirst
		} else {
			pause = max(min(2*pause, askLater), askShare*time.Since(begin))
		}
	}
}

// ask asks the devices, and tells whether somebody new has answered.
func (x *encryptor) ask(ctx context.Context, p *plans) bool {
	if p == nil || len(p.encryption.Devices) == 0 {
		return false
	}
	peers, err := x.devices.Peers(ctx)
	if err != nil {
		x.log.Debug("the WireGuard devices cannot be asked for their peers", "err", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	met, news := maps.Clone(x.met), false
	for i := range peers {
		q := &peers[i]
		m := model.Meeting{Node: q.Node, End: endOf(p.view, q.Device)}
		if q.Node != "" && !q.LastHandshake.IsZero() && !met[m] {
			met[m], news = true, true
		}
	}
	if news {
		x.met = met
		x.gen++
		x.again()
	}
	return news
}

// apply is the part of the engine that makes devices and peers.
func (x *encryptor) apply(ctx context.Context, d *wireguard.Driver, p *plans) (reconcile.Result, error) {
	res, err := d.Apply(ctx, p.encryption)
	for i := range p.view.Tunnels {
		t := &p.view.Tunnels[i]
		// One of an earlier key, which is gone, is missed by whoever still sends by it until they follow: no error.
		if t.End.Encap == model.EncapWireGuard && !t.Kept && !slices.ContainsFunc(p.encryption.Devices, func(d encryption.Device) bool { return d.Name == t.Device }) {
			err = errors.Join(err, fmt.Errorf("device %s cannot be made without its key", t.Device))
		}
	}
	return res, err
}

// The defaults of FelixConfiguration.
const (
	defaultWireGuardPort  = 51820
	defaultWireGuardPort6 = 51821
	defaultRulePriority   = 99
)

// encryptionSettings merges what the FelixConfigurations of this node say about encryption, as tunnelSettings
// does.
func (c *cluster) encryptionSettings() model.EncryptionConfig {
	e := model.EncryptionConfig{Port4: defaultWireGuardPort, Port6: defaultWireGuardPort6, Priority: defaultRulePriority, Mark: kernel.UnderlayMark}
	for _, f := range c.felixChain() {
		s := &f.Spec
		override(&e.Enabled4, s.WireguardEnabled)
		override(&e.Enabled6, s.WireguardEnabledV6)
		override(&e.Host, s.WireguardHostEncryptionEnabled)
		override(&e.Port4, s.WireguardListeningPort)
		override(&e.Port6, s.WireguardListeningPortV6)
		override(&e.Epoch, s.WireguardKeyEpoch)
		override(&e.Threading, s.WireguardThreadingEnabled)
		override(&e.Priority, s.WireguardRoutingRulePriority)
		override(&e.MTU4, s.WireguardMTU)
		override(&e.MTU6, s.WireguardMTUV6)
		if s.EncryptionMode != "" {
			e.Preferred = s.EncryptionMode == v3.EncryptionPreferred
		}
		if s.WireguardKeepAlive != nil {
			e.Keepalive = int(s.WireguardKeepAlive.Seconds())
		}
	}
	return e
}

func override[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// encrypts tells whether there is to be a WireGuard device.
func encrypts(v *topology.View) bool {
	return slices.ContainsFunc(v.Tunnels, func(t topology.Tunnel) bool { return t.End.Encap == model.EncapWireGuard })
}

// wireguardDriver returns the WireGuard driver in the way that the configuration forces or the kernel has; nil,
// with the reason noted for status, when it has none.
func (s *service) wireguardDriver(ctx context.Context) *wireguard.Driver {
	way, err := wireguard.Way(s.cfg.WireGuardDriver), error(nil)
	if s.cfg.WireGuardDriver == config.WireGuardAuto {
		way, err = wireguard.Probe(ctx)
	} else if err = wireguard.Check(ctx, way); err != nil {
		err = fmt.Errorf("--wireguard-driver %s does not work on this host, set it to auto or to another: %w", way, err)
	}
	if err != nil {
		s.missing = append(s.missing, fmt.Sprintf("WireGuard is not available: %v", err))
		s.log.Warn("no WireGuard", "err", err)
		return nil
	}
	s.ways[tunnel.WireGuard] = string(way)
	return wireguard.New(s.handle, s.log, wireguard.Options{Way: way, LogDir: s.cfg.RunDir, Keeper: s.cfg.Keeper})
}
