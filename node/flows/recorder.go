package flows

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	nflog "github.com/florianl/go-nflog/v2"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/policy"
)

const (
	// socketBuffer in bytes holds some 10,000 packets while we look at others.
	socketBuffer = 8 << 20
	// copied bytes of each packet: an IPv6 header with some extensions, and the ports.
	copied = 256
	// retryAfter is how long Run waits when the group cannot be read.
	retryAfter = 5 * time.Second
	// linksFor is how long names of interfaces are trusted when an index is not known.
	linksFor = time.Second
)

// Recorder reads the packets that policy logs. Its methods may be called by any goroutine.
type Recorder struct {
	h    *kernel.Handle
	log  *slog.Logger
	ring ring

	mu    sync.Mutex
	names names

	// Of the goroutine that receives.
	links  map[uint32]string
	looked time.Time
	seq    uint32
	begun  bool
}

// New returns a Recorder for h's network namespace. It opens nothing yet.
func New(h *kernel.Handle, log *slog.Logger) *Recorder { return &Recorder{h: h, log: log} }

// Update tells the Recorder what is enforced now. It costs what the Delta has, and keeps nothing of the
// Program that a Compiler changes; call it between two Flushes.
func (r *Recorder) Update(u policy.Update) {
	if u.Program == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names.update(&u)
}

// Run records until ctx ends. A group that cannot be read, since another process does, is tried again
// and again: policy does not depend on it.
func (r *Recorder) Run(ctx context.Context) error {
	told := ""
	for {
		err := r.receive(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			r.log.Warn("cannot record denied packets, will retry", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryAfter):
		}
	}
}

// receive opens the group and reads from it until something fails.
func (r *Recorder) receive(ctx context.Context) error {
	// FlagSeq numbers the packets, so that those that are lost are counted.
	cfg := nflog.Config{Group: kernel.LogGroup, Copymode: nflog.CopyPacket, Bufsize: copied, QThresh: 1, Flags: nflog.FlagSeq}
	ns, err := r.h.Namespace()
	if err != nil {
		return err
	}
	cfg.NetNS = int(ns.Fd())
	nf, err := nflog.Open(&cfg)
	_ = ns.Close()
	if err != nil {
		return fmt.Errorf("open NFLOG: %w (the kernel needs NETFILTER_NETLINK_LOG)", err)
	}
	_ = nf.Con.SetReadBuffer(socketBuffer)
	ctx, cancel := context.WithCancel(ctx)
	r.begun = false
	// The library's goroutine ends when one of its functions says so, and that is the last it does but
	// for leaving the group.
	ended := make(chan error, 1)
	err = nf.RegisterWithErrorFunc(ctx, func(a nflog.Attribute) int {
		r.packet(ctx, &a)
		return 0
	}, func(err error) int {
		if errors.Is(err, unix.ENOBUFS) && ctx.Err() == nil {
			return 0 // counted by the numbers of the next packets
		}
		ended <- err
		return 1
	})
	if err == nil {
		r.log.Debug("recording denied packets", "group", kernel.LogGroup)
		select {
		case err = <-ended:
		case <-ctx.Done(): // the library may end without a word then
			err = ctx.Err()
		}
	} else if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w (another process reads this group here)", err)
	}
	cancel()
	if err := nf.Close(); err != nil {
		r.log.Debug("close NFLOG", "err", err)
	}
	if err != nil {
		return fmt.Errorf("read NFLOG group %d: %w", kernel.LogGroup, err)
	}
	return nil
}

// packet records one packet.
func (r *Recorder) packet(ctx context.Context, a *nflog.Attribute) {
	if a.Seq != nil {
		if gap := *a.Seq - r.seq - 1; r.begun && gap != 0 && gap < 1<<31 {
			r.ring.lose(uint64(gap))
		}
		r.seq, r.begun = *a.Seq, true
	}
	if a.Prefix == nil || a.Payload == nil {
		r.ring.ignore()
		return
	}
	tag, err := policy.ParseTag(*a.Prefix)
	if err != nil {
		r.ring.ignore()
		return
	}
	p, ok := parse(*a.Payload)
	if !ok {
		r.ring.ignore()
		return
	}
	f := flowOf(&p)
	f.Time = time.Now()
	if a.Timestamp != nil {
		f.Time = *a.Timestamp
	}
	f.In, f.Out = r.link(ctx, a.InDev), r.link(ctx, a.OutDev)
	r.mu.Lock()
	r.names.name(&f, tag)
	r.mu.Unlock()
	r.ring.add(f)
}

func flowOf(p *packet) Flow {
	f := Flow{Protocol: p.Protocol.String(), Fragment: p.Fragment}
	f.Source.Address, f.Dest.Address = p.Src, p.Dst
	if p.HasPorts {
		f.Source.Port, f.Dest.Port = p.SrcPort, p.DstPort
	}
	if p.HasICMP {
		f.ICMPType, f.ICMPCode = &p.ICMPType, &p.ICMPCode
	}
	return f
}

// name fills in the pods and the reason.
func (n *names) name(f *Flow, t policy.Tag) {
	src, from := n.end(f.Source.Address, f.In)
	dst, to := n.end(f.Dest.Address, f.Out)
	src.Port, dst.Port = f.Source.Port, f.Dest.Port
	f.Source, f.Dest = src, dst
	n.explain(f, t, from, to)
}

// link returns the name of an interface. One that is new is looked up, now and then.
func (r *Recorder) link(ctx context.Context, index *uint32) string {
	if index == nil || *index == 0 {
		return ""
	}
	if name, ok := r.links[*index]; ok {
		return name
	}
	if time.Since(r.looked) > linksFor {
		if all, err := r.h.Links(ctx); err == nil {
			r.links = make(map[uint32]string, len(all))
			for _, l := range all {
				r.links[uint32(l.Index)] = l.Name
			}
		}
		r.looked = time.Now()
	}
	return r.links[*index]
}
