package ipam

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"weft/node/datastore"
	"weft/node/ipam/block"
)

// ShowOptions selects what Show tells.
type ShowOptions struct {
	Blocks bool       // each block beside each pool
	Addr   netip.Addr // when valid, just this address
}

// Report is what is in use.
type Report struct {
	Pools   []PoolUsage    `json:"pools,omitempty"`
	Blocks  []BlockUsage   `json:"blocks,omitempty"`
	Address *AddressReport `json:"address,omitempty"`
}

// PoolUsage counts the addresses of one pool. Those that are neither used, cooling nor reserved are
// free; a reservation counts within blocks only.
type PoolUsage struct {
	Name     string `json:"name"` // empty: blocks that lie in no pool
	CIDR     string `json:"cidr,omitempty"`
	HostBits int    `json:"hostBits"` // the pool has 2^hostBits addresses
	Disabled bool   `json:"disabled,omitempty"`
	Blocks   int    `json:"blocks"`
	Used     int    `json:"used"`
	Borrowed int    `json:"borrowed"` // of the used ones, by other nodes than the block's
	Cooling  int    `json:"cooling"`
	Reserved int    `json:"reserved"`
}

// BlockUsage counts the addresses of one block.
type BlockUsage struct {
	CIDR     string `json:"cidr"`
	Pool     string `json:"pool,omitempty"`
	Affinity string `json:"affinity,omitempty"` // host:<node>
	Size     int    `json:"size"`
	Used     int    `json:"used"`
	Borrowed int    `json:"borrowed"`
	Cooling  int    `json:"cooling"`
	Reserved int    `json:"reserved"`
	Free     int    `json:"free"` // can be given out now
}

// AddressReport tells about one address.
type AddressReport struct {
	Addr       netip.Addr        `json:"address"`
	State      string            `json:"state"` // in use, cooling down, reserved, free, not in a block, not in a pool
	Pool       string            `json:"pool,omitempty"`
	Block      string            `json:"block,omitempty"`
	Affinity   string            `json:"affinity,omitempty"`
	Handle     string            `json:"handle,omitempty"`
	Sequence   uint64            `json:"sequence,omitempty"`
	Borrowed   bool              `json:"borrowed,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Endpoints  []string          `json:"endpoints,omitempty"` // workload endpoints that have it
}

// Show reads what is in use.
func Show(ctx context.Context, store datastore.Store, o ShowOptions) (*Report, error) {
	s, err := readState(ctx, store)
	if err != nil {
		return nil, err
	}
	return s.show(o), nil
}

func (s *state) show(o ShowOptions) *Report {
	if o.Addr.IsValid() {
		return &Report{Address: s.address(o.Addr.Unmap())}
	}
	r := &Report{}
	byPool := map[string]*PoolUsage{}
	for _, p := range s.pools {
		u := PoolUsage{Name: p.Name, CIDR: p.Spec.CIDR, Disabled: p.Spec.Disabled}
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil {
			u.HostBits = cidr.Addr().BitLen() - cidr.Bits()
		}
		r.Pools = append(r.Pools, u)
	}
	for i := range r.Pools {
		byPool[r.Pools[i].Name] = &r.Pools[i]
	}
	stray := &PoolUsage{}
	for _, b := range s.blocks {
		u := s.blockUsage(b.block)
		sum := byPool[u.Pool]
		if sum == nil {
			sum = stray
		}
		sum.Blocks++
		sum.Used, sum.Borrowed, sum.Cooling, sum.Reserved = sum.Used+u.Used, sum.Borrowed+u.Borrowed, sum.Cooling+u.Cooling, sum.Reserved+u.Reserved
		if o.Blocks {
			r.Blocks = append(r.Blocks, u)
		}
	}
	if stray.Blocks > 0 {
		r.Pools = append(r.Pools, *stray)
	}
	return r
}

func (s *state) blockUsage(b *block.Block) BlockUsage {
	u := b.Usage(s.policy())
	out := BlockUsage{
		CIDR: b.CIDR().String(), Pool: s.poolOf(b.CIDR().Addr()), Affinity: b.Affinity(),
		Size: u.Size, Used: u.Used, Cooling: u.Cooling, Reserved: u.Skipped, Free: u.Available(),
	}
	for _, a := range b.Allocations() {
		if borrowed(b, a) {
			out.Borrowed++
		}
	}
	return out
}

func (s *state) address(a netip.Addr) *AddressReport {
	r := &AddressReport{Addr: a, State: "not in a pool", Pool: s.poolOf(a), Endpoints: s.endpointAddresses()[a]}
	if r.Pool != "" {
		r.State = "not in a block"
	}
	if s.reserved(a) != "" {
		r.State = s.reserved(a)
	}
	b, found := s.find(a)
	if !found {
		return r
	}
	r.Block, r.Affinity = b.CIDR().String(), b.Affinity()
	if held, used := b.Find(a); used {
		r.State, r.Handle, r.Sequence, r.Attributes = "in use", held.Owner.Handle, held.Sequence, held.Owner.Attributes
		r.Borrowed = borrowed(b, held)
		return r
	}
	if until, cooling := b.CoolingSince(a, s.policy()); cooling {
		r.State = "cooling down since " + until.UTC().Format("15:04:05 UTC")
	} else if s.reserved(a) == "" {
		r.State = "free"
	}
	return r
}

// size prints the number of addresses of a pool.
func (p *PoolUsage) size() string {
	if p.HostBits > 32 {
		return "2^" + strconv.Itoa(p.HostBits)
	}
	return strconv.FormatUint(1<<p.HostBits, 10)
}

func (p *PoolUsage) percent() string {
	share := float64(p.Used)
	for range p.HostBits {
		share /= 2
	}
	return fmt.Sprintf("%.1f%%", 100*share)
}

// Write prints the report as tables.
func (r *Report) Write(w io.Writer) error {
	if r.Address != nil {
		return r.Address.write(w)
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tCIDR\tADDRESSES\tUSED\t%\tBORROWED\tCOOLING\tRESERVED\tBLOCKS")
	for _, p := range r.Pools {
		name, size, percent := p.Name, p.size(), p.percent()
		if name == "" {
			name, size, percent = "(no pool)", "-", "-"
		}
		if p.Disabled {
			name += " (disabled)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%d\t%d\t%d\t%d\n", plain(name), plain(p.CIDR), size, p.Used, percent, p.Borrowed, p.Cooling, p.Reserved, p.Blocks)
	}
	if len(r.Blocks) > 0 {
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(t, "\nBLOCK\tPOOL\tAFFINITY\tADDRESSES\tUSED\tBORROWED\tCOOLING\tRESERVED\tFREE")
	}
	for _, b := range r.Blocks {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", b.CIDR, orDash(b.Pool), orDash(b.Affinity), b.Size, b.Used, b.Borrowed, b.Cooling, b.Reserved, b.Free)
	}
	return t.Flush()
}

func (r *AddressReport) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s:\t%s\n", plain(name), plain(value))
		}
	}
	line("Address", r.Addr.String())
	line("State", r.State)
	line("Pool", r.Pool)
	line("Block", r.Block)
	line("Affinity", r.Affinity)
	line("Handle", r.Handle)
	if r.Borrowed {
		line("Borrowed", "yes: "+r.Attributes[AttrNode]+" uses an address of another node's block")
	}
	for _, k := range slices.Sorted(maps.Keys(r.Attributes)) {
		line("Owner's "+k, r.Attributes[k])
	}
	line("Endpoint", strings.Join(r.Endpoints, ", "))
	return t.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return plain(s)
}

// plain drops what could steer a terminal: names and attributes come from the cluster.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}
