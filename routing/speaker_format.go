package routing

import (
	"fmt"
	"net/netip"
	"strings"
)

// Format prints the speaker as canonical text: itself, its sessions with their filters, what it
// announces, and the sets that filters name. Passwords do not show. The zero Speaker prints nothing.
func (s *Speaker) Format() string {
	if s.ASN == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "speaker as %d router-id %v port %d", s.ASN, s.RouterID, s.ListenPort)
	for _, a := range s.Listen {
		fmt.Fprintf(&b, " listen %v", a)
	}
	if s.LogLevel != 0 {
		fmt.Fprintf(&b, " log %v", s.LogLevel)
	}
	b.WriteByte('\n')
	for i := range s.Sessions {
		n := &s.Sessions[i]
		fmt.Fprintf(&b, "session %s\n", n)
		for _, list := range []struct {
			name  string
			rules []FilterRule
		}{{"import", n.Import}, {"export", n.Export}} {
			for j := range list.rules {
				fmt.Fprintf(&b, "  %s %s\n", list.name, &list.rules[j])
			}
		}
	}
	for _, a := range s.Advertisements {
		fmt.Fprintf(&b, "advertise %v", a.Prefix)
		if a.NextHop.IsValid() {
			fmt.Fprintf(&b, " next-hop %v", a.NextHop)
		}
		if len(a.Communities) > 0 {
			fmt.Fprintf(&b, " communities %s", strings.Join(a.Communities, ","))
		}
		fmt.Fprintf(&b, "  # %s\n", a.Why)
	}
	for _, set := range s.Sets {
		b.WriteString("set " + set.Name)
		for _, list := range []struct {
			name string
			all  []netip.Prefix
		}{{"exact", set.Exact}, {"within", set.Within}, {"covers", set.Covers}} {
			for i, p := range list.all {
				if i == 0 {
					b.WriteString(" " + list.name)
				}
				b.WriteString(" " + p.String())
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// words joins pairs of a name and a value, leaving out the zero values.
type words struct{ strings.Builder }

func put[T comparable](w *words, name string, v T) {
	var zero T
	if v == zero {
		return
	}
	if flag, is := any(v).(bool); is && flag {
		w.WriteString(" " + name)
	} else {
		fmt.Fprintf(w, " %s %v", name, v)
	}
}

// String prints the session without its filters.
func (n *Session) String() string {
	w := &words{}
	fmt.Fprintf(w, "%v port %d as %d local-as %d", n.Peer, n.Port, n.ASN, n.LocalASN)
	put(w, "source", n.Source)
	put(w, "gateway", n.Gateway)
	put(w, "passive", n.Passive)
	put(w, "reflector-client cluster-id", n.ClusterID)
	put(w, "next-hop", [...]string{"", "self", "keep"}[n.NextHop])
	put(w, "password", n.Password)
	put(w, "ttl-security", n.TTLSecurityHops)
	put(w, "allowed-local-as", n.AllowedLocalAS)
	fmt.Fprintf(w, " restart %d hold %d keepalive %d", n.RestartSeconds, n.HoldSeconds, n.KeepaliveSeconds)
	put(w, "max-prefixes", n.MaxPrefixes)
	if n.BFD != (BFD{}) {
		fmt.Fprintf(w, " bfd %dms x%d", n.BFD.IntervalMillis, n.BFD.Multiplier)
	}
	w.WriteString("  # ")
	switch {
	case n.Mesh:
		w.WriteString("mesh, node " + n.Node)
	case n.Node != "":
		w.WriteString(n.Name + ", node " + n.Node)
	default:
		w.WriteString(n.Name)
	}
	return w.String()
}

// String prints the rule, with what it comes from after a #.
func (r *FilterRule) String() string {
	w := &words{}
	w.WriteString(map[bool]string{true: "accept", false: "reject"}[r.Accept])
	if r.CIDR.IsValid() {
		put(w, [...]string{"equal", "not-equal", "in", "not-in"}[r.Match], r.CIDR)
	}
	if r.MinLength != 0 || r.MaxLength != 0 {
		fmt.Fprintf(w, " length %d-", r.MinLength)
		if r.MaxLength != 0 {
			fmt.Fprint(w, r.MaxLength)
		}
	}
	put(w, map[bool]string{true: "not-in-set", false: "in-set"}[r.NotInSet], r.Set)
	put(w, "learned", r.RemotePeers)
	put(w, "internally", r.Internal)
	put(w, "interface", r.Interface)
	put(w, "ebgp", r.EBGP)
	put(w, "ibgp", r.IBGP)
	put(w, "community", r.Community)
	if len(r.ASPath) > 0 {
		fmt.Fprintf(w, " as-path %v", r.ASPath)
	}
	put(w, "priority", r.Priority)
	for _, o := range r.Operations {
		put(w, "add-community", o.AddCommunity)
		if len(o.PrependASPath) > 0 {
			fmt.Fprintf(w, " prepend %v", o.PrependASPath)
		}
		put(w, "set-priority", o.SetPriority)
	}
	w.WriteString("  # " + r.By)
	return w.String()
}
