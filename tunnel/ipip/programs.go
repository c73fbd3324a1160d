package ipip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/tunnel"
)

// Names of the programs, as the kernel shows them; whatever has one of them is ours.
const (
	egressName  = "weft_ipip_out"
	ingressName = "weft_ipip_in"
)

// config is the value of the programs' map of that name, in their layout.
type config struct {
	Local  [4]byte
	Device uint32
	Parent uint32
	MAC    [6]byte
	_      uint16
}

// programs are the two eBPF programs with their maps. All of it belongs to the goroutine that
// applies.
type programs struct {
	h     *kernel.Handle
	log   *slog.Logger
	hooks hooks
	spec  func() (*ebpf.CollectionSpec, error)
	objs  programsObjects // zero: not loaded
	maps  map[string]ebpf.MapID

	targets *reconcile.SliceSyncer[tunnel.Source, targetKey, [4]byte]
	sources *reconcile.SliceSyncer[tunnel.Source, sourceKey, uint32]

	// What the last run left there, for look.
	attached map[place]ebpf.ProgramID
	config   config
	filled   bool // the maps hold want
	want     []tunnel.Source
	wantMaps *contents // of want; nil until it is needed
	memory   uint64    // that the maps take
}

func newPrograms(h *kernel.Handle, log *slog.Logger) *programs {
	p := &programs{h: h, log: log, spec: loadPrograms}
	p.newTables()
	return p
}

// newTables begins with maps that nothing was written to: what they lack is no repair.
func (p *programs) newTables() {
	p.targets = reconcile.NewSliceSyncer(reconcile.NewSyncer(
		reconcile.Table[targetKey, [4]byte](mapTable[targetKey, [4]byte]{"weft_targets", func() *ebpf.Map { return p.objs.WeftTargets }}),
		reconcile.DeleteAlways), target, tunnel.CompareSources)
	p.sources = reconcile.NewSliceSyncer(reconcile.NewSyncer(
		reconcile.Table[sourceKey, uint32](mapTable[sourceKey, uint32]{"weft_sources", func() *ebpf.Map { return p.objs.WeftSources }}),
		reconcile.DeleteAlways), source, tunnel.CompareSources)
}

func (p *programs) loaded() bool { return p.objs.WeftIpipIn != nil }

// close forgets the programs; what is attached stays.
func (p *programs) close() {
	if p.loaded() {
		p.objs.Close()
	}
	p.objs, p.attached, p.want, p.wantMaps, p.config, p.filled = programsObjects{}, nil, nil, nil, config{}, false
	p.newTables()
}

// invalidate makes the next fill read the maps again.
func (p *programs) invalidate() {
	p.filled = false
	p.targets.Invalidate()
	p.sources.Invalidate()
}

// found is a program of ours that runs somewhere.
type found struct {
	at      place
	program *ebpf.Program
	info    *ebpf.ProgramInfo
}

// at returns those of the programs at the place that are ours. The caller closes them.
func (p *programs) at(at place, ids []ebpf.ProgramID) ([]found, error) {
	var out []found
	for _, id := range ids {
		program, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, unix.ENOENT) {
			continue // gone meanwhile
		}
		if err != nil {
			closeAll(out)
			return nil, fmt.Errorf("look at the program %d at the %s of link %d (it needs CAP_SYS_ADMIN): %w", id, at.hook, at.index, err)
		}
		info, err := program.Info()
		if err != nil || info.Name != egressName && info.Name != ingressName {
			program.Close()
			continue
		}
		out = append(out, found{at, program, info})
	}
	return out, nil
}

func closeAll(fs []found) {
	for _, f := range fs {
		f.program.Close()
	}
}

// everywhere returns the programs of ours at any link.
func (p *programs) everywhere(ctx context.Context, links []kernel.TunnelLink) ([]found, error) {
	var places []place
	for _, l := range links {
		places = append(places, place{l.Index, kernel.Ingress})
		if l.Name == kernel.IPIPDevice || l.Ours { // never put elsewhere
			places = append(places, place{l.Index, kernel.Egress})
		}
	}
	ids, err := p.hooks.list(ctx, places)
	if err != nil {
		return nil, err
	}
	var out []found
	for i, at := range places {
		there, err := p.at(at, ids[i])
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, there...)
	}
	return out, nil
}

// load makes the programs ready: with the maps of programs of ours that run already, so that
// nothing is lost to those, else with empty ones. Where a program that runs is the same as ours, it
// is taken for ours.
func (p *programs) load(running []found) error {
	if p.loaded() {
		return nil
	}
	spec, err := p.spec()
	if err != nil {
		return fmt.Errorf("read the eBPF programs: %w", err)
	}
	adopted := p.adoptMaps(spec, running)
	defer func() {
		for _, m := range adopted {
			m.Close() // the collection holds clones
		}
	}()
	var objs programsObjects
	err = spec.LoadAndAssign(&objs, &ebpf.CollectionOptions{MapReplacements: adopted})
	if err != nil {
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			err = fmt.Errorf("%w: %+v", err, refused)
		}
		return fmt.Errorf("load the eBPF programs (it needs CAP_BPF and CAP_NET_ADMIN): %w", err)
	}
	p.objs = objs
	if err := p.bind(); err != nil {
		p.close()
		return err
	}
	if err := p.adoptPrograms(running); err != nil {
		p.close()
		return err
	}
	return nil
}

// bind makes each program hold the maps of both, so that either outlives a restart with all.
func (p *programs) bind() error {
	p.maps = map[string]ebpf.MapID{}
	for _, m := range []*ebpf.Map{p.objs.WeftConfig, p.objs.WeftCounters, p.objs.WeftSources, p.objs.WeftTargets} {
		for _, program := range []*ebpf.Program{p.objs.WeftIpipIn, p.objs.WeftIpipOut} {
			if err := program.BindMap(m); err != nil {
				return fmt.Errorf("bind the eBPF map %v to its programs: %w", m, err)
			}
		}
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("look at the eBPF map %v: %w", m, err)
		}
		p.maps[info.Name], _ = info.ID()
	}
	return nil
}

// adoptMaps returns the maps of running programs that fit, by name.
func (p *programs) adoptMaps(spec *ebpf.CollectionSpec, running []found) map[string]*ebpf.Map {
	adopted := map[string]*ebpf.Map{}
	for _, f := range running {
		ids, _ := f.info.MapIDs()
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				continue
			}
			info, err := m.Info()
			if err == nil && spec.Maps[info.Name] != nil && adopted[info.Name] == nil && spec.Maps[info.Name].Compatible(m) == nil {
				adopted[info.Name] = m
				continue
			}
			m.Close()
		}
	}
	return adopted
}

// adoptPrograms takes running programs that do the same with the same maps for the ones just loaded.
func (p *programs) adoptPrograms(running []found) error {
	mine := slices.Sorted(maps.Values(p.maps))
	for _, ours := range []**ebpf.Program{&p.objs.WeftIpipIn, &p.objs.WeftIpipOut} {
		info, err := (*ours).Info()
		if err != nil {
			return fmt.Errorf("look at the eBPF program %v: %w", *ours, err)
		}
		for _, f := range running {
			ids, _ := f.info.MapIDs()
			slices.Sort(ids)
			if f.info.Name != info.Name || f.info.Tag != info.Tag || !slices.Equal(ids, mine) {
				continue
			}
			same, err := f.program.Clone()
			if err != nil {
				return fmt.Errorf("adopt the eBPF program %v: %w", f.program, err)
			}
			(*ours).Close()
			*ours = same
			break
		}
	}
	return nil
}

// fill makes the maps hold what the sources say: who may send, and where to.
func (p *programs) fill(ctx context.Context, sources []tunnel.Source) (reconcile.Result, error) {
	if p.filled && sameSources(p.want, sources) {
		return reconcile.Result{}, nil
	}
	// A node may send to us before we send to it, so that no answer is lost.
	r1, err1 := p.sources.SyncSlice(ctx, sources)
	r2, err2 := p.targets.SyncSlice(ctx, firsts(sources))
	err := errors.Join(err1, err2)
	p.want, p.wantMaps, p.filled, p.memory = sources, nil, err == nil, p.mapMemory()
	return r1.Add(r2), err
}

func sameSources(a, b []tunnel.Source) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// configure tells the programs about this host.
func (p *programs) configure(local netip.Addr, device, parent int, mac model.MAC) (changed bool, err error) {
	want := config{Local: local.As4(), Device: uint32(device), Parent: uint32(parent), MAC: mac}
	var have config
	if err := p.objs.WeftConfig.Lookup(uint32(0), &have); err != nil {
		return false, fmt.Errorf("read the eBPF map weft_config: %w", err)
	}
	p.config = want
	if have == want {
		return false, nil
	}
	if err := p.objs.WeftConfig.Put(uint32(0), want); err != nil {
		return false, fmt.Errorf("write to the eBPF map weft_config: %w", err)
	}
	return true, nil
}

// attach makes the egress program run at the device, and the ingress program at the uplinks.
// running is what runs now, of ours, anywhere; what is too much there goes last.
func (p *programs) attach(ctx context.Context, device int, uplinks map[int]bool, running []found) (reconcile.Result, error) {
	want := map[place]*ebpf.Program{{device, kernel.Egress}: p.objs.WeftIpipOut}
	for index := range uplinks {
		want[place{index, kernel.Ingress}] = p.objs.WeftIpipIn
	}
	attached := map[place]ebpf.ProgramID{}
	var res reconcile.Result
	var errs []error
	for _, at := range slices.SortedFunc(maps.Keys(want), comparePlaces) {
		r, err := p.attachOne(ctx, at, want[at], running)
		res, errs = res.Add(r), append(errs, err)
		if info, ierr := want[at].Info(); err == nil && ierr == nil {
			attached[at], _ = info.ID()
		}
	}
	p.attached = attached
	if err := errors.Join(errs...); err != nil {
		return res, err
	}
	for _, f := range running {
		if want[f.at] != nil {
			continue // attachOne saw to it
		}
		if err := p.hooks.detach(ctx, f.at, f.program); err != nil {
			errs = append(errs, err)
			continue
		}
		res.Removed++
	}
	return res, errors.Join(errs...)
}

func (p *programs) attachOne(ctx context.Context, at place, program *ebpf.Program, running []found) (reconcile.Result, error) {
	var res reconcile.Result
	info, err := program.Info()
	if err != nil {
		return res, fmt.Errorf("look at the eBPF program %v: %w", program, err)
	}
	mine, _ := info.ID()
	var there []found
	ok := false
	for _, f := range running {
		if f.at != at {
			continue
		}
		if id, _ := f.info.ID(); id == mine {
			ok = true
			continue
		}
		there = append(there, f)
	}
	switch {
	case ok:
	case len(there) > 0:
		err = p.hooks.attach(ctx, at, program, there[0].program)
		there = there[1:]
		res.Changed++
	default:
		err = p.hooks.attach(ctx, at, program, nil)
		res.Added++
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	for _, f := range there {
		if err := p.hooks.detach(ctx, at, f.program); err != nil {
			return res, err
		}
		res.Removed++
	}
	return res, nil
}

func comparePlaces(a, b place) int {
	if a.index != b.index {
		return a.index - b.index
	}
	return int(a.hook) - int(b.hook)
}

// counters reads the programs' counters, summed over the processors.
func (p *programs) counters() ([numCounters]uint64, error) {
	var out [numCounters]uint64
	for i := range out {
		var each []uint64
		if err := p.objs.WeftCounters.Lookup(uint32(i), &each); err != nil {
			return out, fmt.Errorf("read the eBPF map weft_counters: %w", err)
		}
		for _, n := range each {
			out[i] += n
		}
	}
	return out, nil
}

// The counters, as ipip.c has them.
const (
	countSent = iota
	countReceived
	countNoPeer
	countNoRoute
	countTooBig
	countNotSent
	countUnknown
	countMalformed
	countFragment
	countCongested
	countNotReceived
	numCounters
)

// contents is what the maps should hold.
type contents struct {
	targets map[targetKey][4]byte
	sources map[sourceKey]uint32
}

// mapMemory returns how many bytes the maps take. From Linux 6.4 on that tells, at once, that entries
// were added or removed; before, it does not change.
func (p *programs) mapMemory() (sum uint64) {
	for _, m := range []*ebpf.Map{p.objs.WeftTargets, p.objs.WeftSources} {
		if info, err := m.Info(); err == nil {
			bytes, _ := info.Memlock()
			sum += bytes
		}
	}
	return sum
}

// quickLook tells whether the programs run where the last run left them, with the same config, and
// whether the maps have as many entries.
func (p *programs) quickLook(ctx context.Context) (bool, error) {
	var have config
	if err := p.objs.WeftConfig.Lookup(uint32(0), &have); err != nil || have != p.config || p.mapMemory() != p.memory {
		return false, err
	}
	places := slices.Collect(maps.Keys(p.attached))
	ids, err := p.hooks.list(ctx, places)
	if err != nil {
		return false, err
	}
	for i, at := range places {
		if !slices.Contains(ids[i], p.attached[at]) {
			return false, nil
		}
	}
	return true, nil
}

// mapsHold tells whether the maps hold what the last run left there.
func (p *programs) mapsHold(ctx context.Context) (bool, error) {
	if p.wantMaps == nil {
		c := &contents{make(map[targetKey][4]byte, len(p.want)), make(map[sourceKey]uint32, len(p.want))}
		for _, s := range p.want {
			k, v := source(s)
			c.sources[k] = v
		}
		for _, s := range firsts(p.want) {
			k, v := target(s)
			c.targets[k] = v
		}
		p.wantMaps = c
	}
	targets, err1 := mapTable[targetKey, [4]byte]{"weft_targets", func() *ebpf.Map { return p.objs.WeftTargets }}.List(ctx)
	sources, err2 := mapTable[sourceKey, uint32]{"weft_sources", func() *ebpf.Map { return p.objs.WeftSources }}.List(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	return maps.Equal(targets, p.wantMaps.targets) && maps.Equal(sources, p.wantMaps.sources), nil
}
