package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"weft/node/cni/rpc"
)

const (
	cniVersion = "1.1.0"
	// networkName is the name of the network in the conflist; weft-cni is its one plugin.
	networkName = "weft"
	pluginName  = "weft-cni"
	ifName      = "eth0"
)

// podArgs is what a pod brings besides its name; it goes to the plugin as the CNI convention
// args.cni.labels and as args.weft.
type podArgs struct {
	Labels         map[string]string `json:"labels,omitempty"`
	Annotations    map[string]string `json:"annotations,omitempty"`
	Ports          []Port            `json:"ports,omitempty"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
}

// Port is a named port of a pod.
type Port struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"` // TCP, UDP, SCTP
	Port     uint16 `json:"port"`
}

// runtimeOf stands in for the container runtime of a node: libcni with the node's conflist, and
// the plugin executed in the node's namespaces.
func (l *Lab) runtimeOf(p Process) (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	path := filepath.Join(p.Dir, "cni", "10-"+networkName+".conflist")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("write the CNI configuration of %s: %w", p.Name, err)
	}
	err := writeJSON(path, map[string]any{
		"cniVersion": cniVersion,
		"name":       networkName,
		"plugins":    []any{map[string]any{"type": pluginName, "socket": filepath.Join(runDir(p.Dir), rpc.SocketName)}},
	})
	if err != nil {
		return nil, nil, err
	}
	list, err := libcni.ConfListFromFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the CNI configuration of %s: %w", p.Name, err)
	}
	x := &nodeExec{run: func(f func() error) error { return l.onNode(p, f) }}
	return libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(l.binary)}, filepath.Join(p.Dir, "cni", "cache"), x), list, nil
}

// nodeExec runs plugins as invoke.RawExec does, in the namespaces of a node.
type nodeExec struct {
	invoke.RawExec
	version.PluginDecoder
	run func(func() error) error
}

// ExecPlugin implements invoke.Exec.
func (x *nodeExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	var out []byte
	err := x.run(func() (err error) {
		out, err = x.RawExec.ExecPlugin(ctx, path, stdin, env)
		return err
	})
	return out, err
}

// runtimeConf is one attachment as a runtime names it. An empty netns says that it is gone.
func (l *Lab) runtimeConf(r podRecord, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: r.ContainerID,
		NetNS:       netns,
		IfName:      ifName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", r.Namespace},
			{"K8S_POD_NAME", r.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", r.ContainerID},
			{"K8S_POD_UID", r.UID},
		},
	}
}

// withArgs returns the list with a pod's arguments in its plugin's configuration.
func withArgs(list *libcni.NetworkConfigList, a podArgs) (*libcni.NetworkConfigList, error) {
	type label struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	labels := []label{}
	for _, k := range sortedKeys(a.Labels) {
		labels = append(labels, label{k, a.Labels[k]})
	}
	args := map[string]any{
		"cni": map[string]any{"labels": labels},
		"weft": map[string]any{
			"annotations":    orEmpty(a.Annotations),
			"ports":          append([]Port{}, a.Ports...),
			"serviceAccount": a.ServiceAccount,
		},
	}
	out := *list
	out.Plugins = nil
	for _, p := range list.Plugins {
		q, err := libcni.InjectConf(p, map[string]any{"args": args})
		if err != nil {
			return nil, fmt.Errorf("write the pod's arguments into the CNI configuration: %w", err)
		}
		out.Plugins = append(out.Plugins, q)
	}
	return &out, nil
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// resultAddresses returns the addresses of a CNI result, as the result writes them.
func resultAddresses(r types.Result) []string {
	b, err := json.Marshal(r)
	if err != nil {
		return nil
	}
	var v struct {
		IPs []struct {
			Address string `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil
	}
	var out []string
	for _, ip := range v.IPs {
		out = append(out, ip.Address)
	}
	return out
}
