package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"weft/model"
	"weft/node/cni/rpc"
)

// netConf is the network configuration as runtimes hand it over. Fields that are not here are
// ignored, as CNI has it, so that existing conflists work.
type netConf struct {
	CNIVersion string   `json:"cniVersion"`
	Name       string   `json:"name"`
	MTU        int      `json:"mtu"`      // bytes; 0: the node's choice
	NodeName   string   `json:"nodename"` // empty or this node's
	DeviceType string   `json:"device_type"`
	IPAM       ipamConf `json:"ipam"`
	Container  struct {
		AllowIPForwarding bool `json:"allow_ip_forwarding"`
	} `json:"container_settings"`
	Args struct {
		CNI struct {
			Labels []struct{ Key, Value string } `json:"labels"`
		} `json:"cni"`
		Weft podArgs `json:"weft"`
	} `json:"args"`
	PrevResult       json.RawMessage    `json:"prevResult"`
	ValidAttachments *[]validAttachment `json:"cni.dev/valid-attachments"`
}

// ipamConf is the ipam section.
type ipamConf struct {
	Type       string   `json:"type"`
	AssignIPv4 *boolean `json:"assign_ipv4"`
	AssignIPv6 *boolean `json:"assign_ipv6"`
	IPv4Pools  []string `json:"ipv4_pools"`
	IPv6Pools  []string `json:"ipv6_pools"`
}

// podArgs is what a runtime tells of the pod under args.weft, where no Kubernetes API tells it.
type podArgs struct {
	Annotations    map[string]string `json:"annotations"`
	Ports          []podPort         `json:"ports"`
	ServiceAccount string            `json:"serviceAccount"`
}

// podPort is a named port.
type podPort struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol,omitempty"` // TCP when empty
	Port     uint16 `json:"port"`
}

// validAttachment names an attachment that GC must keep.
type validAttachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// boolean is a JSON true or false, or the string of one, which older configurations have.
type boolean bool

// UnmarshalJSON implements json.Unmarshaler.
func (b *boolean) UnmarshalJSON(in []byte) error {
	v, err := strconv.ParseBool(strings.Trim(string(in), `"`))
	if err != nil {
		return fmt.Errorf("%s is neither true nor false", in)
	}
	*b = boolean(v)
	return nil
}

// parseConf reads and checks the network configuration of a request.
func parseConf(r *rpc.Request, node string) (*netConf, *rpc.Error) {
	var c netConf
	if err := json.Unmarshal(r.Config, &c); err != nil {
		return nil, rpc.Errorf(rpc.CodeDecoding, "decode network configuration: %v", err)
	}
	if err := rpc.CheckVersion(c.CNIVersion, r.Command); err != nil {
		return nil, err
	}
	bad := func(format string, a ...any) *rpc.Error {
		return rpc.Errorf(rpc.CodeInvalidConfig, "network configuration: "+format, a...)
	}
	switch {
	case !rpc.ValidNetworkName(c.Name):
		return nil, bad("name is %q: want a letter or digit, then letters, digits, '_', '.' and '-'", c.Name)
	case c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535): // RFC 791, RFC 8200; IPv6's 1280 is checked at ADD
		return nil, bad("mtu is %d: want 0 (the node chooses), or 68 to 65535", c.MTU)
	case c.NodeName != "" && !strings.EqualFold(c.NodeName, node):
		return nil, bad("nodename is %q, but this is node %s: is the socket the right one?", c.NodeName, node)
	case c.DeviceType != "" && c.DeviceType != "veth":
		return nil, bad("device_type is %q: want veth", c.DeviceType)
	}
	switch c.IPAM.Type {
	case "", "weft-ipam", "calico-ipam":
	default:
		return nil, bad("ipam.type is %q: want weft-ipam (calico-ipam is the same), since the node gives out the addresses itself", c.IPAM.Type)
	}
	return &c, nil
}

// Annotations of a pod or namespace that the attachment follows.
const (
	annotationIPv4Pools = "cni.projectcalico.org/ipv4pools"
	annotationIPv6Pools = "cni.projectcalico.org/ipv6pools"
	annotationIPAddrs   = "cni.projectcalico.org/ipAddrs"
	annotationHWAddr    = "cni.projectcalico.org/hwAddr"
)

// families returns the wanted families; none, when the configuration says nothing, means every one
// that has a pool. Otherwise IPv4 is on unless refused, and IPv6 is off unless asked for or alone.
func (c *ipamConf) families() ([]model.Family, error) {
	if c.AssignIPv4 == nil && c.AssignIPv6 == nil {
		return nil, nil
	}
	v4 := c.AssignIPv4 == nil || bool(*c.AssignIPv4)
	v6 := !v4
	if c.AssignIPv6 != nil {
		v6 = bool(*c.AssignIPv6)
	}
	var f []model.Family
	if v4 {
		f = append(f, model.IPv4)
	}
	if v6 {
		f = append(f, model.IPv6)
	}
	if len(f) == 0 {
		return nil, fmt.Errorf("assign_ipv4 and assign_ipv6 are both false: the pod would have no address")
	}
	return f, nil
}

// pools returns, by family, the pools that the attachment is restricted to: the pod's annotation
// goes before the namespace's, and that before the configuration.
func (c *netConf) pools(pod, namespace map[string]string) (map[model.Family][]string, error) {
	out := map[model.Family][]string{}
	for _, f := range []struct {
		family     model.Family
		annotation string
		conf       []string
	}{
		{model.IPv4, annotationIPv4Pools, c.IPAM.IPv4Pools},
		{model.IPv6, annotationIPv6Pools, c.IPAM.IPv6Pools},
	} {
		list := f.conf
		for _, from := range []map[string]string{namespace, pod} {
			if v, ok := from[f.annotation]; ok {
				list = nil
				if err := json.Unmarshal([]byte(v), &list); err != nil {
					return nil, fmt.Errorf("annotation %s is %q: want a JSON list of pool names or CIDRs", f.annotation, v)
				}
			}
		}
		if len(list) > 0 {
			out[f.family] = list
		}
	}
	return out, nil
}

// fixed returns the addresses and the MAC that the pod's annotations ask for.
func (p *podArgs) fixed() (addrs []netip.Addr, mac model.MAC, err error) {
	if v, ok := p.Annotations[annotationIPAddrs]; ok {
		if err = json.Unmarshal([]byte(v), &addrs); err != nil {
			return nil, mac, fmt.Errorf("annotation %s is %q: want a JSON list of addresses", annotationIPAddrs, v)
		}
	}
	if v, ok := p.Annotations[annotationHWAddr]; ok {
		if mac, err = model.ParseMAC(v); err != nil {
			return nil, mac, fmt.Errorf("annotation %s: %w", annotationHWAddr, err)
		}
		if mac[0]&1 != 0 || mac.IsZero() {
			return nil, mac, fmt.Errorf("annotation %s is %s: want the address of one interface, not a multicast one", annotationHWAddr, v)
		}
	}
	return addrs, mac, nil
}
