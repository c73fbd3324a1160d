package cni

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/internal/kernel"
	"weft/model"
	"weft/node/cni/rpc"
	"weft/node/ipam"
	"weft/node/policies"
)

// key names an attachment as CNI does: the container and the interface in it.
type key struct{ container, ifName string }

// file returns the attachment's file name in the journal. '@' is in neither part.
func (k key) file() string { return k.container + "@" + k.ifName + ".json" }

func (k key) String() string { return k.container + "/" + k.ifName }

// state is how far an attachment has come.
type state string

const (
	// stateAdding: ADD has begun and not answered. Whatever it made is to be removed if the node
	// restarts.
	stateAdding state = "adding"
	// stateReady: ADD has answered, or is about to.
	stateReady state = "ready"
	// stateReleasing: the kernel's part is gone; the record and the addresses are to be given back
	// as soon as the store answers.
	stateReleasing state = "releasing"
)

// attachment is one pod interface on this host, and one file of the journal.
type attachment struct {
	Network     string       `json:"network"`
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifName"`
	Netns       string       `json:"netns,omitempty"` // as the runtime named it
	Namespace   string       `json:"namespace"`
	Pod         string       `json:"pod"`
	Device      string       `json:"device"` // host side
	MAC         string       `json:"mac,omitempty"`
	MTU         int          `json:"mtu,omitempty"`      // bytes, as we last set it
	FixedMTU    bool         `json:"fixedMTU,omitempty"` // the network configuration says it, not the node
	Addresses   []netip.Addr `json:"addresses,omitempty"`
	Forwarding  bool         `json:"forwarding,omitempty"` // the pod may forward
	Handle      string       `json:"handle"`               // owner of the addresses
	Record      string       `json:"record"`               // name of the WorkloadEndpoint
	// Told is what the runtime told of the pod, for the record; nil in entries of earlier releases, and where it
	// was too much for the journal.
	Told  *told `json:"told,omitempty"`
	State state `json:"state"`
	// Superseded: a newer sandbox of the same pod has taken over device and record. Only the
	// addresses are still this one's.
	Superseded bool `json:"superseded,omitempty"`
	// Boot is the kernel's boot ID (/proc/sys/kernel/random/boot_id) at ADD: after another boot no
	// pod of the earlier one runs.
	Boot    string    `json:"boot"`
	Created time.Time `json:"created"`
}

// told is what of a pod's record the attachment itself does not say.
type told struct {
	Orchestrator   string            `json:"orchestrator"`
	UID            string            `json:"uid,omitempty"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Annotations    map[string]string `json:"annotations,omitempty"`
	Ports          []podPort         `json:"ports,omitempty"`
}

// recordID names a WorkloadEndpoint.
type recordID struct{ namespace, name string }

func (a *attachment) recordID() recordID { return recordID{a.Namespace, a.Record} }

func (a *attachment) key() key { return key{a.ContainerID, a.IfName} }

func (a *attachment) id() model.EndpointID {
	return model.EndpointID{Namespace: a.Namespace, Pod: a.Pod, Interface: a.IfName}
}

// attributes are stored with the addresses.
func (a *attachment) attributes() map[string]string {
	attrs := map[string]string{ipam.AttrNamespace: a.Namespace, ipam.AttrPod: a.Pod}
	if a.Told != nil && a.Told.UID != "" {
		attrs[ipam.AttrPodUID] = a.Told.UID
	}
	return attrs
}

// link returns what the kernel is to have for this attachment.
func (a *attachment) link() kernel.PodLink {
	mac, _ := model.ParseMAC(a.MAC) // empty or checked by validate
	return kernel.PodLink{Device: a.Device, IfName: a.IfName, MTU: a.MTU, MAC: mac,
		Addresses: a.Addresses, Forwarding: a.Forwarding}
}

func (a *attachment) endpoint() model.Endpoint {
	l := a.link()
	return model.Endpoint{ID: a.id(), Device: a.Device, Addresses: slices.Clone(a.Addresses), MAC: l.MAC}
}

// forPolicy is what policy has to know of it beside the record.
func (a *attachment) forPolicy() policies.Attachment {
	e := a.endpoint()
	return policies.Attachment{ID: e.ID, Container: a.ContainerID, Device: e.Device, Addresses: e.Addresses, MAC: e.MAC}
}

// validate checks what came from a file: nothing in it may name another file or another device.
func (a *attachment) validate() error {
	switch {
	case !rpc.ValidContainerID(a.ContainerID):
		return fmt.Errorf("containerID is %q", a.ContainerID)
	case !rpc.ValidIfName(a.IfName):
		return fmt.Errorf("ifName is %q", a.IfName)
	case !rpc.ValidNetworkName(a.Network):
		return fmt.Errorf("network is %q", a.Network)
	case !validLabel(a.Namespace) || !validSubdomain(a.Pod):
		return fmt.Errorf("pod is %q in namespace %q", a.Pod, a.Namespace)
	case a.Device != kernel.PodDeviceName(a.id()):
		return fmt.Errorf("device is %q, pod %s has %s", a.Device, a.id(), kernel.PodDeviceName(a.id()))
	case a.State != stateAdding && a.State != stateReady && a.State != stateReleasing:
		return fmt.Errorf("state is %q", a.State)
	case a.Handle == "" || a.Record == "":
		return fmt.Errorf("handle is %q, record is %q", a.Handle, a.Record)
	}
	if a.MAC != "" {
		if _, err := model.ParseMAC(a.MAC); err != nil {
			return err
		}
	}
	for _, ip := range a.Addresses {
		if !ip.IsValid() || ip.Zone() != "" || ip.Is4In6() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() {
			return fmt.Errorf("address is %q", ip)
		}
	}
	return nil
}

// journalFile is a file of the journal: the checksum is of the attachment's own bytes.
type journalFile struct {
	Checksum   string          `json:"checksum"`
	Attachment json.RawMessage `json:"attachment"`
}

// maxTold bounds what the journal keeps of what a runtime tells: bytes of JSON.
const maxTold = 16 << 10

// journalled returns t as far as it has room in the journal: without annotations, which no policy looks at, or nil.
func (t *told) journalled() *told {
	if t == nil {
		return nil
	}
	small := *t
	small.Annotations = nil
	for _, try := range []*told{t, &small} {
		if b, err := json.Marshal(try); err == nil && len(b) <= maxTold {
			return try
		}
	}
	return nil
}

// encodeJournal returns the file of a: one line of JSON.
func encodeJournal(a *attachment) ([]byte, error) {
	kept := *a
	kept.Told = a.Told.journalled()
	raw, err := json.Marshal(&kept)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(journalFile{checksum(raw), raw})
	return append(b, '\n'), err
}

// decodeJournal reads a file of the journal and checks it.
func decodeJournal(b []byte) (*attachment, error) {
	var f journalFile
	if err := strictDecode(b, &f); err != nil {
		return nil, err
	}
	if got := checksum(f.Attachment); got != f.Checksum {
		return nil, fmt.Errorf("checksum is %q, the content has %q", f.Checksum, got)
	}
	var a attachment
	// A later version may have added fields: those are not ours to refuse.
	if err := json.Unmarshal(f.Attachment, &a); err != nil {
		return nil, err
	}
	return &a, a.validate()
}

// strictDecode refuses fields that v has not, and anything after the value.
func strictDecode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return fmt.Errorf("something follows the JSON value")
	}
	return nil
}

func checksum(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
