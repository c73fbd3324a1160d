package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// DefaultRoot holds one directory for each lab.
const DefaultRoot = "/run/weft-lab"

// Lab is one lab of this machine, up or not. Its methods may be called by several goroutines and
// processes at once: they lock what they must.
type Lab struct {
	name   string
	root   string
	dir    string // root/name
	binary string // weft; weft-cni is beside it

	progressMu sync.Mutex
	progress   io.Writer

	// hook is called before and after everything that is made, with a description. An error from
	// it ends the verb on the spot, without any cleaning up. Tests use it to stop half way.
	hook func(step string) error
}

// Options are what New can be told. Zero values are fine.
type Options struct {
	Root     string    // DefaultRoot
	Binary   string    // the weft binary; this program's own
	Progress io.Writer // lines for people; none
}

// New returns the lab of that name. Nothing is looked at or made.
func New(name string, o Options) (*Lab, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l := &Lab{name: name, root: o.Root, binary: o.Binary, progress: o.Progress}
	if l.root == "" {
		l.root = DefaultRoot
	}
	if l.binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		l.binary = self
	}
	l.dir = filepath.Join(l.root, l.name)
	return l, nil
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.name }

// StoreEndpoint returns the URL of the lab's store: an etcd on a Unix socket.
func (l *Lab) StoreEndpoint() string { return storeEndpoint(l.dir) }

// NodeRunDir returns a node's run directory, which holds its sockets.
func (l *Lab) NodeRunDir(node string) string { return runDir(nodeDir(l.dir, node)) }

// NodeDataDir returns a node's data directory.
func (l *Lab) NodeDataDir(node string) string { return dataDir(nodeDir(l.dir, node)) }

// Netns returns the name of the network namespace of a node.
func (l *Lab) Netns(node string) string { return l.name + "." + node }

// PodNetns returns the name of the network namespace of a pod.
func (l *Lab) PodNetns(namespace, pod string) string { return l.name + "." + namespace + "." + pod }

// Env returns the variables, as NAME=VALUE, with which the client commands reach the lab's store.
// A lab that is not up is an error.
func (l *Lab) Env() ([]string, error) {
	if _, err := l.readState(); err != nil {
		return nil, err
	}
	return []string{"WEFT_ETCD_ENDPOINTS=" + l.StoreEndpoint()}, nil
}

func (l *Lab) say(format string, args ...any) {
	if l.progress == nil {
		return
	}
	l.progressMu.Lock()
	defer l.progressMu.Unlock()
	fmt.Fprintf(l.progress, format+"\n", args...)
}

func (l *Lab) fault(step string) error {
	if l.hook == nil {
		return nil
	}
	return l.hook(step)
}

// checkContext returns the reason why ctx has ended, if it has.
func checkContext(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
