package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func load(t *testing.T, args ...string) (*Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	finish := Bind(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return finish()
}

func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(file, []byte("nodeName: from-file\nrunDir: /run/from-file\ndataDir: /data/from-file\netcdEndpoints: [unix:///a, unix:///b]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WEFT_CONFIG", file)
	t.Setenv("WEFT_RUN_DIR", "/run/from-env")
	t.Setenv("WEFT_DATA_DIR", "/data/from-env")
	c, err := load(t, "--data-dir", "/data/from-flag")
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeName != "from-file" || c.RunDir != "/run/from-env" || c.DataDir != "/data/from-flag" {
		t.Errorf("got %s, %s, %s: want file, then environment, then flag to win", c.NodeName, c.RunDir, c.DataDir)
	}
	if len(c.Datastore.Endpoints) != 2 || c.Datastore.Endpoints[1] != "unix:///b" {
		t.Errorf("endpoints %q", c.Datastore.Endpoints)
	}
}

func TestErrorsNameTheFlag(t *testing.T) {
	for args, want := range map[string]string{
		"--node-name=A_b":                                    "--node-name",
		"--run-dir=run":                                      "--run-dir",
		"--run-dir=/" + strings.Repeat("x", 100):             "108 bytes",
		"--datastore=kubernetes --etcd-endpoints=http://x:1": "--etcd-endpoints",
		"--kubeconfig=/x":                                    "--kubeconfig",
		"--datastore=zookeeper":                              "want etcd",
		"--etcd-endpoints=tcp://x":                           "--etcd-endpoints",
		"--ip-autodetection-method=interface=[":              "--ip-autodetection-method",
		"--ip-autodetection-method=cidr=10.0.0.0":            "want CIDRs",
		"--ip6-autodetection-method=maybe":                   "--ip6-autodetection-method",
		"--health-listen=9099":                               "--health-listen",
		"--log-level=loud":                                   "--log-level",
		"--resync-interval=1ms":                              "--resync-interval",
		"--ip-autodetection-method=first-found=eth0":         "takes no argument",
		"--ip-autodetection-method=can-reach=nowhere":        "want an IP address",
	} {
		if _, err := load(t, append([]string{"--node-name=n1"}, strings.Fields(args)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", args, err, want)
		}
	}
}

func TestUnknownFileKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(file, []byte("nodename: n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, "--config", file); err == nil || !strings.Contains(err.Error(), `unknown key "nodename"`) {
		t.Errorf("got %v, want the unknown key named", err)
	}
}
