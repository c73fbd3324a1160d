package flows

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"weft/model"
)

// Flow is a packet that policy denied or logged. JSON is how it is served.
type Flow struct {
	Seq       uint64    `json:"seq"` // counts what was recorded since the node started, from 1
	Time      time.Time `json:"time"`
	Action    string    `json:"action"`    // "deny" or "log"
	Direction string    `json:"direction"` // "ingress" or "egress", of the endpoint that was asked
	Protocol  string    `json:"protocol"`  // name or number
	Source    End       `json:"source"`
	Dest      End       `json:"destination"`
	In        string    `json:"in,omitempty"`  // interface
	Out       string    `json:"out,omitempty"` // interface
	ICMPType  *uint8    `json:"icmpType,omitempty"`
	ICMPCode  *uint8    `json:"icmpCode,omitempty"`
	Fragment  bool      `json:"fragment,omitempty"` // not the first: its ports are not known
	Chain     string    `json:"chain,omitempty"`    // "GlobalNetworkPolicy allow-dns egress"
	Rule      *int      `json:"rule,omitempty"`     // in the list of Chain, from 0
	Tier      string    `json:"tier,omitempty"`     // whose default action it was
	Reason    string    `json:"reason"`             // in a sentence
}

// End is one end of a Flow.
type End struct {
	Address   netip.Addr `json:"address"`
	Port      uint16     `json:"port,omitempty"`
	Namespace string     `json:"namespace,omitempty"` // of a pod of this node
	Pod       string     `json:"pod,omitempty"`
}

// String prints "shop/web 10.0.0.1:80", or without the pod when it is none of this node.
func (e End) String() string {
	s := e.Address.String()
	if e.Port != 0 {
		s = netip.AddrPortFrom(e.Address, e.Port).String()
	}
	if e.Pod != "" {
		s = e.Namespace + "/" + e.Pod + " " + s
	}
	return s
}

// Packet prints "tcp", "icmp type 8 code 0", "udp fragment".
func (f *Flow) Packet() string {
	s := f.Protocol
	if f.ICMPType != nil && f.ICMPCode != nil {
		s += fmt.Sprintf(" type %d code %d", *f.ICMPType, *f.ICMPCode)
	}
	if f.Fragment {
		s += " fragment"
	}
	return s
}

// Denied tells whether the packet was dropped; otherwise a rule only logged it.
func (f *Flow) Denied() bool { return f.Action == model.Deny.String() }

// about tells whether an end is a pod of the namespace, or the policy is of it. Empty is every one.
func (f *Flow) about(namespace string) bool {
	if namespace == "" || f.Source.Namespace == namespace || f.Dest.Namespace == namespace {
		return true
	}
	_, name, _ := strings.Cut(f.Chain, " ")
	return strings.HasPrefix(name, namespace+"/")
}
