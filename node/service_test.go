package node

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"weft/node/config"
)

// TestLockDirs: two nodes share neither directory, and one may use a directory for both.
func TestLockDirs(t *testing.T) {
	dir := t.TempDir()
	at := func(run, data string) *config.Config {
		return &config.Config{RunDir: filepath.Join(dir, run), DataDir: filepath.Join(dir, data)}
	}
	unlock, err := lockDirs(at("run1", "data1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ run, data, want string }{
		{"run1", "data2", "--run-dir"},
		{"run2", "data1", "--data-dir"},
	} {
		if _, err := lockDirs(at(tc.run, tc.data)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s and %s: got %v, want an error that names %s", tc.run, tc.data, err, tc.want)
		}
	}
	unlock()
	for _, c := range []*config.Config{at("run2", "data1"), at("both", "both")} {
		unlock, err := lockDirs(c)
		if err != nil {
			t.Errorf("%s and %s: %v", c.RunDir, c.DataDir, err)
			continue
		}
		unlock()
	}
}

// TestTunnelAddressIsInUse: no pod gets the address that the tunnel device has, also when the store
// lost its allocation.
func TestTunnelAddressIsInUse(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	for addr, want := range map[string]bool{"10.244.0.1": true, "10.244.0.2": false} {
		if got := c.isTunnelAddress(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: in use %v, want %v", addr, got, want)
		}
	}
}
