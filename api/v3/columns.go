package v3

import (
	"fmt"
	"strconv"
	"strings"
)

// column makes a column out of a function on the kind's own type. An object of another type shows
// as empty.
func column[P Object](name string, value func(P) string) Column {
	return Column{Name: name, Value: func(o Object) string {
		if p, ok := o.(P); ok {
			return value(p)
		}
		return ""
	}}
}

func wide(c Column) Column {
	c.Wide = true
	return c
}

func yesNo(b bool) string { return strconv.FormatBool(b) }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func ipPoolColumns() []Column {
	return []Column{
		column("CIDR", func(p *IPPool) string { return p.Spec.CIDR }),
		column("VXLAN", func(p *IPPool) string { return string(p.Spec.VXLANMode) }),
		column("IPIP", func(p *IPPool) string { return string(p.Spec.IPIPMode) }),
		column("NAT", func(p *IPPool) string { return yesNo(p.Spec.NATOutgoing) }),
		column("DISABLED", func(p *IPPool) string { return yesNo(p.Spec.Disabled) }),
		column("SELECTOR", func(p *IPPool) string { return p.Spec.NodeSelector }),
		wide(column("NAMESPACES", func(p *IPPool) string { return p.Spec.NamespaceSelector })),
		wide(column("BLOCKSIZE", func(p *IPPool) string { return strconv.Itoa(p.Spec.BlockSize) })),
		wide(column("USES", func(p *IPPool) string {
			uses := make([]string, len(p.Spec.AllowedUses))
			for i, u := range p.Spec.AllowedUses {
				uses[i] = string(u)
			}
			return strings.Join(uses, ",")
		})),
		wide(column("ASSIGNMENT", func(p *IPPool) string { return string(p.Spec.AssignmentMode) })),
	}
}

func ipReservationColumns() []Column {
	return []Column{
		column("RESERVED", func(r *IPReservation) string { return strings.Join(r.Spec.ReservedCIDRs, ",") }),
	}
}

func ipamConfigurationColumns() []Column {
	return []Column{
		column("STRICT", func(c *IPAMConfiguration) string { return yesNo(c.Spec.StrictAffinity) }),
		column("AUTOALLOCATE", func(c *IPAMConfiguration) string {
			return yesNo(c.Spec.AutoAllocateBlocks == nil || *c.Spec.AutoAllocateBlocks)
		}),
		column("MAXBLOCKS", func(c *IPAMConfiguration) string { return strconv.Itoa(c.Spec.MaxBlocksPerHost) }),
		column("COOLDOWN", func(c *IPAMConfiguration) string { return strconv.Itoa(c.Spec.IPCooldownSeconds) + "s" }),
	}
}

func ipamBlockColumns() []Column {
	return []Column{
		column("CIDR", func(b *IPAMBlock) string { return b.Spec.CIDR }),
		column("AFFINITY", func(b *IPAMBlock) string { return deref(b.Spec.Affinity) }),
		column("USED", func(b *IPAMBlock) string {
			used := 0
			for _, a := range b.Spec.Allocations {
				if a != nil {
					used++
				}
			}
			return fmt.Sprintf("%d/%d", used, len(b.Spec.Allocations))
		}),
	}
}

func blockAffinityColumns() []Column {
	return []Column{
		column("CIDR", func(a *BlockAffinity) string { return a.Spec.CIDR }),
		column("NODE", func(a *BlockAffinity) string { return a.Spec.Node }),
		column("TYPE", func(a *BlockAffinity) string { return a.Spec.Type }),
		column("STATE", func(a *BlockAffinity) string { return a.Spec.State }),
	}
}

func ipamHandleColumns() []Column {
	return []Column{
		column("HANDLE", func(h *IPAMHandle) string { return h.Spec.HandleID }),
		column("ADDRESSES", func(h *IPAMHandle) string {
			n := 0
			for _, count := range h.Spec.Block {
				n += count
			}
			return strconv.Itoa(n)
		}),
	}
}

func nodeColumns() []Column {
	return []Column{
		column("ASN", func(n *Node) string {
			if n.Spec.BGP == nil || n.Spec.BGP.ASNumber == nil {
				return ""
			}
			return n.Spec.BGP.ASNumber.String()
		}),
		column("IPV4", func(n *Node) string { return deref(n.Spec.BGP).IPv4Address }),
		column("IPV6", func(n *Node) string { return deref(n.Spec.BGP).IPv6Address }),
		wide(column("VTEP", func(n *Node) string { return n.Spec.IPv4VXLANTunnelAddr })),
		wide(column("VTEP-MAC", func(n *Node) string { return n.Spec.VXLANTunnelMACAddr })),
		wide(column("VTEP-V6", func(n *Node) string { return n.Spec.IPv6VXLANTunnelAddr })),
	}
}

func workloadEndpointColumns() []Column {
	return []Column{
		column("WORKLOAD", func(e *WorkloadEndpoint) string {
			if e.Spec.Pod != "" {
				return e.Spec.Pod
			}
			return e.Spec.Workload
		}),
		column("NODE", func(e *WorkloadEndpoint) string { return e.Spec.Node }),
		column("NETWORKS", func(e *WorkloadEndpoint) string { return strings.Join(e.Spec.IPNetworks, ",") }),
		column("INTERFACE", func(e *WorkloadEndpoint) string { return e.Spec.InterfaceName }),
		wide(column("MAC", func(e *WorkloadEndpoint) string { return e.Spec.MAC })),
		wide(column("PROFILES", func(e *WorkloadEndpoint) string { return strings.Join(e.Spec.Profiles, ",") })),
	}
}

func clusterInformationColumns() []Column {
	return []Column{
		column("GUID", func(c *ClusterInformation) string { return c.Spec.ClusterGUID }),
		column("TYPE", func(c *ClusterInformation) string { return c.Spec.ClusterType }),
		column("READY", func(c *ClusterInformation) string {
			return yesNo(c.Spec.DatastoreReady == nil || *c.Spec.DatastoreReady)
		}),
	}
}

func felixConfigurationColumns() []Column {
	return []Column{
		column("SELECTOR", func(c *FelixConfiguration) string { return c.Spec.NodeSelector }),
	}
}
