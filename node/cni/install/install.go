// Package install puts what a container runtime needs to find this node's network on the host: the plugin weft-cni
// and a network configuration list (CNI specification 1.1.0, "Configuration format"). A runtime takes a node for ready
// once a list is there: so it comes last, and goes first.
package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	plugin     = "weft-cni"
	listName   = "10-weft.conflist"
	cniVersion = "1.0.0" // containerd before 2.0 knows no later one
)

// Options say where things go. With an empty ConfDir nothing is installed.
type Options struct {
	BinDir  string // of plugins: /opt/cni/bin
	ConfDir string // of network configurations: /etc/cni/net.d
	Plugin  string // the file that is copied to BinDir
	Socket  string // of the node service
}

// List returns the network configuration list. The plugins for host ports and for bandwidth limits, which others make,
// are chained where they are in BinDir.
func (o Options) List() ([]byte, error) {
	plugins := []any{map[string]any{"type": plugin, "socket": o.Socket}}
	for _, chained := range []string{"portmap", "bandwidth"} {
		capability := map[string]string{"portmap": "portMappings", "bandwidth": "bandwidth"}[chained]
		if _, err := os.Stat(filepath.Join(o.BinDir, chained)); err == nil {
			plugins = append(plugins, map[string]any{"type": chained, "capabilities": map[string]bool{capability: true}})
		}
	}
	b, err := json.MarshalIndent(map[string]any{"cniVersion": cniVersion, "name": "weft", "plugins": plugins}, "", "  ")
	return append(b, '\n'), err
}

// Install puts the plugin and then the list there, each in one step; what is right already is left alone. It tells
// whether it changed anything.
func (o Options) Install() (changed bool, err error) {
	if o.ConfDir == "" {
		return false, nil
	}
	binary, err := os.ReadFile(o.Plugin)
	if err != nil {
		return false, fmt.Errorf("install the CNI plugin: %w", err)
	}
	one, err := put(filepath.Join(o.BinDir, plugin), binary, 0o755)
	if err != nil {
		return false, fmt.Errorf("install the CNI plugin: %w", err)
	}
	list, err := o.List()
	if err != nil {
		return one, err
	}
	two, err := put(filepath.Join(o.ConfDir, listName), list, 0o644)
	if err != nil {
		err = fmt.Errorf("install the CNI configuration: %w", err)
	}
	return one || two, err
}

// put makes a file have that content.
func put(path string, content []byte, mode fs.FileMode) (changed bool, err error) {
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, content) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".weft-*") // runtimes pass over names with a dot in front
	if err != nil {
		return false, err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err == nil, err
}

func (o Options) files() []string {
	return []string{filepath.Join(o.ConfDir, listName), filepath.Join(o.BinDir, plugin)}
}

// Present lists, for people, what is there.
func (o Options) Present(context.Context) (out []string, err error) {
	for _, f := range o.files() {
		if _, err := os.Lstat(f); err == nil {
			out = append(out, "file "+f)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return out, err
		}
	}
	return out, nil
}

// Remove removes the list and then the plugin.
func (o Options) Remove(context.Context) error {
	for _, f := range o.files() {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove from CNI: %w", err)
		}
	}
	return nil
}
