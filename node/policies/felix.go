package policies

import (
	"cmp"
	"fmt"
	"strings"

	v3 "weft/api/v3"
	"weft/model"
	"weft/model/selector"
)

// Settings are what the FelixConfigurations of a node say about policy.
type Settings struct {
	Config model.PolicyConfig
	// NftablesMode is Auto, Enabled or Disabled; IptablesBackend Auto, NFT or Legacy, in any case.
	NftablesMode    string
	IptablesBackend string
	// Spoofing lets pods send from the allowSpoofedSourcePrefixes of their records.
	Spoofing bool
}

// FelixChain returns the FelixConfigurations that apply to a node, the weakest first: the default
// one, of several that select the node the oldest, and the node's own.
func FelixChain(self model.NodeName, labels map[string]string, all map[string]*v3.FelixConfiguration) []*v3.FelixConfiguration {
	var chain []*v3.FelixConfiguration
	if f := all["default"]; f != nil {
		chain = append(chain, f)
	}
	var selected *v3.FelixConfiguration
	for name, f := range all {
		if name == "default" || strings.HasPrefix(name, "node.") {
			continue
		}
		sel, err := selector.Parse(f.Spec.NodeSelector)
		if err != nil || !sel.Matches(labels) {
			continue
		}
		if selected == nil || older(f, selected) {
			selected = f
		}
	}
	if selected != nil {
		chain = append(chain, selected)
	}
	if f := all["node."+string(self)]; f != nil {
		chain = append(chain, f)
	}
	return chain
}

func older(a, b *v3.FelixConfiguration) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// The ports that host endpoints' policy never closes, unless configured otherwise: SSH, BGP, etcd,
// Typha and the API server towards the host, and what it needs to reach these and DHCP and DNS.
func failsafeIn() []model.Failsafe {
	return append(failsafes(model.TCP, 22, 179, 2379, 2380, 5473, 6443, 6666, 6667), failsafes(model.UDP, 68)...)
}

func failsafeOut() []model.Failsafe {
	return append(failsafes(model.UDP, 53, 67), failsafes(model.TCP, 179, 2379, 2380, 5473, 6443, 6666, 6667)...)
}

func failsafes(p model.Protocol, ports ...uint16) []model.Failsafe {
	out := make([]model.Failsafe, len(ports))
	for i, port := range ports {
		out[i] = model.Failsafe{Protocol: p, Port: port}
	}
	return out
}

// The actions of defaultEndpointToHostAction that are its default, here and in Kubernetes.
const (
	toHostDrop   = "Drop"
	toHostAccept = "Accept"
)

// settingsOf merges a chain, the weakest first. toHost is defaultEndpointToHostAction where none says it.
func settingsOf(chain []*v3.FelixConfiguration, toHost string) (Settings, error) {
	s := Settings{Config: model.PolicyConfig{FailsafeIn: failsafeIn(), FailsafeOut: failsafeOut()}, NftablesMode: "Auto", IptablesBackend: "Auto"}
	spoofing := "Disabled"
	var err error
	for _, f := range chain {
		if list := f.Spec.FailsafeInboundHostPorts; list != nil {
			if s.Config.FailsafeIn, err = failsafeList("failsafeInboundHostPorts", *list); err != nil {
				return Settings{}, fmt.Errorf("FelixConfiguration %s: %w", f.Name, err)
			}
		}
		if list := f.Spec.FailsafeOutboundHostPorts; list != nil {
			if s.Config.FailsafeOut, err = failsafeList("failsafeOutboundHostPorts", *list); err != nil {
				return Settings{}, fmt.Errorf("FelixConfiguration %s: %w", f.Name, err)
			}
		}
		toHost = cmp.Or(f.Spec.DefaultEndpointToHostAction, toHost)
		spoofing = cmp.Or(f.Spec.WorkloadSourceSpoofing, spoofing)
		s.NftablesMode = cmp.Or(f.Spec.NftablesMode, s.NftablesMode)
		s.IptablesBackend = cmp.Or(f.Spec.IptablesBackend, s.IptablesBackend)
	}
	s.Spoofing = strings.EqualFold(spoofing, "Any")
	s.Config.PodsToHost = strings.EqualFold(toHost, "Accept") || strings.EqualFold(toHost, "Return")
	return s, nil
}

func failsafeList(field string, list []v3.ProtoPort) ([]model.Failsafe, error) {
	out := make([]model.Failsafe, 0, len(list))
	for i, p := range list {
		f := model.Failsafe{Protocol: model.TCP, Port: p.Port}
		switch strings.ToLower(p.Protocol) {
		case "", "tcp":
		case "udp":
			f.Protocol = model.UDP
		case "sctp":
			f.Protocol = model.SCTP
		default:
			return nil, fmt.Errorf("spec.%s[%d].protocol %q: want TCP, UDP or SCTP", field, i, p.Protocol)
		}
		if p.Net != "" {
			net, err := prefix(p.Net)
			if err != nil {
				return nil, fmt.Errorf("spec.%s[%d].net: %w", field, i, err)
			}
			f.Net = net
		}
		out = append(out, f)
	}
	return out, nil
}
