package lab

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

// Runtime calls a node's CNI plugin for containers that its caller has made, from the namespaces that the caller is in, as a
// container runtime does. The lab does not know these containers.
type Runtime struct {
	lab  *Lab
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

// Container is one of a Runtime's.
type Container struct {
	ID             string
	Netns          string // path
	Namespace, Pod string
	Labels         map[string]string
}

// Runtime returns the Runtime of a node.
func (l *Lab) Runtime(ctx context.Context, node string) (*Runtime, error) {
	k, s, err := l.lockShared(ctx)
	if err != nil {
		return nil, err
	}
	defer k.release()
	p, err := l.node(s, node)
	if err != nil {
		return nil, err
	}
	_, list, err := l.runtimeOf(p)
	if err != nil {
		return nil, err
	}
	return &Runtime{l, libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(l.binary)}, filepath.Join(p.Dir, "cni", "cache"), nil), list}, nil
}

// Call is a prepared ADD, and the DEL that belongs to it.
type Call struct {
	runtime *Runtime
	list    *libcni.NetworkConfigList
	conf    *libcni.RuntimeConf
}

// Prepare does what comes before the plugin is called.
func (r *Runtime) Prepare(c Container) (*Call, error) {
	list, err := withArgs(r.list, podArgs{Labels: c.Labels})
	if err != nil {
		return nil, err
	}
	return &Call{r, list, r.lab.runtimeConf(podRecord{Namespace: c.Namespace, Name: c.Pod, ContainerID: c.ID, UID: randomUUID()}, c.Netns)}, nil
}

// Add is CNI ADD.
func (c *Call) Add(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cniTimeout)
	defer cancel()
	res, err := c.runtime.cni.AddNetworkList(ctx, c.list, c.conf)
	if err == nil && len(resultAddresses(res)) == 0 {
		err = errors.New("the CNI result has no address")
	}
	return err
}

// Del is CNI DEL.
func (c *Call) Del(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cniTimeout)
	defer cancel()
	return c.runtime.cni.DelNetworkList(ctx, c.list, c.conf)
}

// NodeLog returns the file that a node's process writes its log to.
func (l *Lab) NodeLog(node string) string { return logPath(nodeDir(l.dir, node)) }
