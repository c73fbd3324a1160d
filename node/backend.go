package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/reconcile"
	"weft/node/config"
	"weft/node/policies"
	"weft/policy"
)

// The drivers of policy.
const (
	policyNFTables = "nftables"
	policyIptables = "iptables"
)

// backend is which of the policy drivers is in force, and the change from one to another: the new one
// applies before the old one goes.
type backend struct {
	log    *slog.Logger
	asked  string // by the flag: auto or a name
	file   string // remembers the name, so that after a restart the rules in force are found
	make   map[string]func() policyDriver
	adjust func(name string, d policyDriver, s policies.Settings) // takes settings of its own

	mu      sync.Mutex // guards inForce
	inForce string

	made    map[string]policyDriver
	stop    context.CancelFunc // ends the watch of the driver in force
	watched sync.WaitGroup
	left    []string // drivers that may have rules in the kernel, the one in force first
	lacking map[string]error
	unable  string    // the driver that could not take over from the one in force
	retry   time.Time // of taking away what others left
}

func newBackend(asked, file string, drivers map[string]func() policyDriver, log *slog.Logger) *backend {
	b := &backend{log: log, asked: asked, file: file, make: drivers, made: map[string]policyDriver{}, lacking: map[string]error{}}
	if text, err := os.ReadFile(file); err == nil {
		b.left = strings.Fields(string(text))
	} else { // of what was before nothing is known
		b.left = slices.Sorted(maps.Keys(drivers))
		slices.Reverse(b.left)
	}
	return b
}

// none tells that there is no driver at all: nothing is enforced.
func (b *backend) none() bool { return len(b.make) == 0 }

// name returns the driver in force, or the one that is to be, or nothing.
func (b *backend) name() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inForce
}

func (b *backend) setName(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inForce = name
}

// current returns the driver in force; nil when there is none.
func (b *backend) current() policyDriver { return b.made[b.name()] }

func (b *backend) driver(name string) policyDriver {
	d := b.made[name]
	if d == nil && b.make[name] != nil {
		d = b.make[name]()
		b.made[name] = d
	}
	return d
}

func (b *backend) invalidate() {
	clear(b.lacking)
	b.retry = time.Time{}
	if d := b.current(); d != nil {
		d.Invalidate()
	}
}

// choose returns the driver that the flag asks for, else the one that the configuration does, else the
// first that this kernel has.
func (b *backend) choose(s policies.Settings) string {
	want := b.asked
	if want == config.PolicyAuto {
		switch {
		case strings.EqualFold(s.NftablesMode, "Enabled"):
			want = policyNFTables
		case strings.EqualFold(s.NftablesMode, "Disabled"):
			want = policyIptables
		case b.lacking[policyNFTables] == nil || b.make[policyIptables] == nil:
			want = policyNFTables
		default:
			want = policyIptables
		}
	}
	if b.make[want] == nil {
		for name := range b.make {
			return name
		}
	}
	return want
}

// lacks tells that the kernel, or this machine, has not what a driver needs.
func lacks(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT)
}

// barrier closes pods by the driver that was in force before this process, as far as is known.
func (b *backend) barrier(ctx context.Context, kick func()) error {
	if b.none() {
		return nil
	}
	name := b.name()
	if name == "" {
		name = b.choose(policies.Settings{})
		if _, err := os.Stat(b.file); err == nil && len(b.left) > 0 && b.make[b.left[0]] != nil {
			name = b.left[0] // its rules stand, or have to until the other one's do
		}
	}
	err := b.driver(name).Barrier(ctx)
	if lacks(err) && b.asked == config.PolicyAuto {
		b.lacking[name] = err
		if other := b.choose(policies.Settings{}); other != name {
			b.log.Warn("this kernel lacks what a policy driver needs, trying another", "driver", name, "other", other, "err", err)
			name = other
			err = b.driver(name).Barrier(ctx)
		}
	}
	if err == nil {
		b.setName(name)
		if b.stop == nil { // before the first program: what is written after that need not be written twice
			b.watch(ctx, name, kick)
		}
	}
	return err
}

// remember writes which drivers may have rules in the kernel.
func (b *backend) remember(left []string) {
	if slices.Equal(left, b.left) {
		return
	}
	b.left = left
	next := b.file + ".new" // a machine that stops meanwhile finds the one or the other
	err := os.WriteFile(next, []byte(strings.Join(left, "\n")+"\n"), 0o600)
	if err == nil {
		err = os.Rename(next, b.file)
	}
	if err != nil {
		b.log.Warn("cannot note which policy driver is in force; after a restart pods may be closed for a moment", "file", b.file, "err", err)
	}
}

// with returns the list with name, in front or at the end.
func with(list []string, name string, front bool) []string {
	if front {
		return append([]string{name}, without(list, name)...)
	}
	if slices.Contains(list, name) {
		return list
	}
	return append(slices.Clone(list), name)
}

func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
}

// leftOut is how the drivers end their errors about rules that the kernel refuses.
const leftOut = "so that what it allows is not allowed and what it denies or passes over is dropped"

// inPart tells that an error of a driver's Apply is about single rules only: all else is in force.
func inPart(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(one error) bool { return !inPart(one) })
	}
	return err != nil && strings.Contains(err.Error(), leftOut)
}

// apply has the chosen driver enforce u. Where another one was in force, or had left something, it
// takes that away afterwards. As long as the chosen one cannot, the other one goes on getting updates.
// inForce tells that u is enforced, also when there is an error.
func (b *backend) apply(ctx context.Context, s policies.Settings, u policy.Update, kick func()) (r reconcile.Result, inForce bool, err error) {
	if b.none() {
		return r, false, nil
	}
	name, before := b.choose(s), b.name()
	var kept error
	first := b.unable == name && before != "" && before != name
	if first { // it could not the last time: nothing shall wait for it
		r, kept = b.driver(before).Apply(ctx, u)
	}
	d := b.driver(name)
	if b.adjust != nil {
		b.adjust(name, d, s)
	}
	b.remember(with(b.left, name, false))
	own, err := d.Apply(ctx, u)
	r = r.Add(own)
	inForce = err == nil || inPart(err)
	if !inForce && lacks(err) && b.asked == config.PolicyAuto && b.lacking[name] == nil {
		b.lacking[name] = err
		if b.choose(s) != name {
			return b.apply(ctx, s, u, kick)
		}
	}
	if !inForce && before != name && before != "" {
		b.unable = name
		if !first {
			var old reconcile.Result
			old, kept = b.driver(before).Apply(ctx, u)
			r = r.Add(old)
		}
		return r, kept == nil || inPart(kept), errors.Join(kept, fmt.Errorf("change from driver %s to %s, which is not in force yet: %w", before, name, err))
	}
	b.unable = ""
	if before != name || b.stop == nil {
		b.enter(ctx, name, before, kick)
	}
	if inForce {
		b.remember(with(b.left, name, true))
		b.removeOthers(ctx, name)
	}
	return r, inForce, err
}

// enter makes name the driver in force.
func (b *backend) enter(ctx context.Context, name, before string, kick func()) {
	b.setName(name)
	b.watch(ctx, name, kick)
	if before != "" && before != name {
		b.log.Info("policy changes to another driver", "from", before, "to", name)
		b.retry = time.Time{}
	}
}

// watch has a driver listen, instead of the one that did before, and waits a little until it does.
func (b *backend) watch(ctx context.Context, name string, kick func()) {
	if b.stop != nil {
		b.stop()
		b.watched.Wait()
	}
	watch, stop := context.WithCancel(ctx)
	b.stop = stop
	d, listening := b.driver(name), make(chan struct{})
	once := sync.OnceFunc(func() { close(listening) })
	b.watched.Go(func() {
		_ = watchOn(watch, b.log, "policy/"+name, d.Watch, func() { once(); kick() })
	})
	select {
	case <-listening:
	case <-ctx.Done():
	case <-time.After(listenPatience):
	}
}

// listenPatience bounds the wait for a driver that listens; each tells of it by a kick.
const listenPatience = 100 * time.Millisecond

// removeOthers takes away what other drivers left, in this process or an earlier one. What cannot be
// done is tried again after a while; it only closes, since all rules must let a packet pass.
func (b *backend) removeOthers(ctx context.Context, name string) {
	if len(b.left) < 2 || time.Now().Before(b.retry) {
		return
	}
	for _, other := range without(b.left, name) {
		if b.make[other] == nil {
			b.remember(without(b.left, other)) // of a release that had it
			continue
		}
		r, err := b.driver(other).Apply(ctx, policy.Update{})
		if err != nil {
			b.retry = time.Now().Add(othersPause)
			b.log.Debug("cannot look for what another policy driver left", "driver", other, "err", err)
			continue
		}
		b.remember(without(b.left, other))
		if !r.Zero() {
			b.log.Info("removed what another policy driver had left", "driver", other, "change", r.String())
		}
	}
}

// othersPause is the time between two attempts to take away what other drivers left.
const othersPause = 10 * time.Minute

// close ends the watch and releases the drivers; the kernel keeps what it has.
func (b *backend) close() {
	if b.stop != nil {
		b.stop()
		b.watched.Wait()
	}
	for _, d := range b.made {
		d.Close()
	}
}

// policyFile is the name, in the data directory, of the file that remembers the driver in force.
const policyFile = "policy-driver"

func policyFileIn(dataDir string) string { return filepath.Join(dataDir, policyFile) }
