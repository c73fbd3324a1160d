// Package config turns flags, environment and a file into one validated Config of the node
// service. It owns names, defaults and precedence; it opens nothing but the file it is told to read.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// Config is the whole, validated configuration, in a section for each area.
type Config struct {
	NodeName   string
	DataDir    string // what must outlive a reboot: the embedded store, the journal of attachments
	RunDir     string // sockets
	Datastore  Datastore
	Address    Address
	Health     Health
	Log        Log
	Resync     time.Duration // period of the full comparison with the kernel
	IPIPDriver string        // auto, kernel or ebpf: how IPIP is done
	// WireGuardDriver is auto, kernel or userspace: who has the WireGuard devices.
	WireGuardDriver string
	// Keeper is the socket of `weft keeper`, which starts the processes that are to outlive this one; empty: this one does.
	Keeper string
	// EncryptionGrace is how long nodes may take to have a key after encryption was switched on.
	EncryptionGrace time.Duration
	// KeyRotationPeriod, if not 0, stands for the wireguardKeyRotationPeriod that is set: tests have no hour.
	KeyRotationPeriod time.Duration
	// BGP tells whether this node speaks BGP.
	BGP bool
	// CNIBinDir and CNIConfDir are where the CNI plugin and its configuration are put; empty: nowhere.
	CNIBinDir, CNIConfDir string
	// PolicyDriver is auto, nftables or iptables: by what policy is enforced.
	PolicyDriver string
	TrackTunnels bool // connections of tunnels between nodes
}

// Datastore says where the cluster's resources are.
type Datastore struct {
	Kind         string   // DatastoreEtcd or DatastoreKubernetes
	Endpoints    []string // of etcd; empty: the embedded one
	Kubeconfig   string   // file that leads to the Kubernetes API server; empty: the pod's own service account
	CAFile       string
	CertFile     string
	KeyFile      string
	User         string
	PasswordFile string
}

// PolicyAuto lets the FelixConfiguration, else the kernel, decide how policy is enforced.
const PolicyAuto = "auto"

// encryptionGrace is the default of --encryption-grace.
const encryptionGrace = 2 * time.Minute

// WireGuardAuto lets the kernel decide who has the WireGuard devices.
const WireGuardAuto = "auto"

// IPIPAuto lets the kernel decide how IPIP is done.
const IPIPAuto = "auto"

// The kinds of store.
const (
	DatastoreEtcd       = "etcd"
	DatastoreKubernetes = "kubernetes"
)

// Embedded tells whether the node runs its own store.
func (d Datastore) Embedded() bool { return d.Kind != DatastoreKubernetes && len(d.Endpoints) == 0 }

// Address says how the node finds its underlay addresses.
type Address struct {
	Method4 string // autodetection method for IPv4, or "none"
	Method6 string // for IPv6
}

// Health is where probes and Prometheus find the node over TCP; both are always served on the
// node's Unix socket too.
type Health struct {
	Listen  string // host:port of /livez and /readyz; empty: none
	Metrics string // host:port of /metrics; empty: none
}

// Log says what is logged, to standard error.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // text, json
}

// EtcdSocket is the embedded store's socket.
func (c *Config) EtcdSocket() string { return filepath.Join(c.RunDir, "etcd.sock") }

type raw struct {
	Config
	file      string
	endpoints string
}

// Bind defines the flags on fs. The returned function reads environment and file for the flags
// that were not given, and validates; call it after fs was parsed.
func Bind(fs *pflag.FlagSet) func() (*Config, error) {
	r := &raw{}
	fs.StringVar(&r.NodeName, "node-name", "", "name of this node, unique in the cluster; none: the host's name in lower case")
	fs.StringVar(&r.DataDir, "data-dir", DefaultDataDir, "directory for what must outlive a reboot")
	fs.StringVar(&r.RunDir, "run-dir", DefaultRunDir, "directory for sockets")
	fs.StringVar(&r.file, "config", "", "configuration file (YAML; keys are the flags' names in camelCase)")
	fs.StringVar(&r.Datastore.Kind, "datastore", DatastoreEtcd, "where the resources are: etcd or kubernetes")
	fs.StringVar(&r.Datastore.Kubeconfig, "kubeconfig", "", "file that leads to the API server of --datastore kubernetes; none: the service account of the pod that the node service runs in")
	fs.StringVar(&r.endpoints, "etcd-endpoints", "", "etcd endpoints, comma separated (http://, https://, unix://); none: start the embedded etcd in the data directory")
	fs.StringVar(&r.Datastore.CAFile, "etcd-cacert", "", "CA certificate file of the etcd server")
	fs.StringVar(&r.Datastore.CertFile, "etcd-cert", "", "client certificate file for etcd")
	fs.StringVar(&r.Datastore.KeyFile, "etcd-key", "", "client key file for etcd")
	fs.StringVar(&r.Datastore.User, "etcd-user", "", "etcd user name")
	fs.StringVar(&r.Datastore.PasswordFile, "etcd-password-file", "", "file that holds the etcd password")
	fs.StringVar(&r.Address.Method4, "ip-autodetection-method", "auto", "how this node finds its IPv4 underlay address: auto, first-found, kubernetes-internal-ip, interface=REGEXP, skip-interface=REGEXP, can-reach=IP, cidr=CIDR, an address, or none")
	fs.StringVar(&r.Address.Method6, "ip6-autodetection-method", "auto", "the same for IPv6")
	fs.StringVar(&r.Health.Listen, "health-listen", "127.0.0.1:9099", "host:port that serves /livez and /readyz; empty: only the Unix socket does")
	fs.StringVar(&r.Health.Metrics, "metrics-listen", "", "host:port that serves /metrics; empty: only the Unix socket does")
	fs.StringVar(&r.Log.Level, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&r.Log.Format, "log-format", "text", "text or json")
	fs.DurationVar(&r.Resync, "resync-interval", 10*time.Minute, "period of the full comparison with the kernel; events repair at once")
	fs.StringVar(&r.IPIPDriver, "ipip-driver", IPIPAuto, "how IPIP is done: kernel (its ipip device), ebpf, or auto: the first that works")
	fs.StringVar(&r.WireGuardDriver, "wireguard-driver", WireGuardAuto, "who has the WireGuard devices: kernel, userspace (a process for each), or auto: the first that works")
	fs.StringVar(&r.Keeper, "keeper", "", "socket of weft keeper, which starts WireGuard's processes and the BGP speaker, so that they outlive the container of the node service; empty: the node service starts them")
	fs.DurationVar(&r.EncryptionGrace, "encryption-grace", encryptionGrace, "how long nodes may take to be ready after encryption was switched on; after that what cannot be encrypted is not sent, unless encryptionMode is Preferred")
	fs.DurationVar(&r.KeyRotationPeriod, "key-rotation-period", 0, "stands for the wireguardKeyRotationPeriod that is set, for tests")
	_ = fs.MarkHidden("key-rotation-period")
	fs.BoolVar(&r.BGP, "bgp", true, "speak BGP, as the resources say; without, routes to other nodes come from the store alone")
	fs.StringVar(&r.PolicyDriver, "policy-driver", PolicyAuto, "how network policy is enforced: nftables, iptables, or auto: as nftablesMode of the FelixConfiguration says, else the first that works")
	fs.BoolVar(&r.TrackTunnels, "track-tunnels", false, "have the kernel track the packets that tunnels send between nodes as connections: for hosts with a firewall of their own that lets them in by state")
	fs.StringVar(&r.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "directory to put the CNI plugin into, with --cni-conf-dir")
	fs.StringVar(&r.CNIConfDir, "cni-conf-dir", "", "directory, such as /etc/cni/net.d, to put the CNI configuration into once the node is ready; empty: install neither")
	return func() (*Config, error) {
		if err := r.fill(fs); err != nil {
			return nil, err
		}
		return r.finish()
	}
}

// Where a node keeps its things unless it is told otherwise.
const (
	DefaultDataDir = "/var/lib/weft"
	DefaultRunDir  = "/run/weft"
)

// EnvOr returns what the environment says for a flag, else the value.
func EnvOr(flag, value string) string {
	if v, ok := os.LookupEnv(EnvName(flag)); ok {
		return v
	}
	return value
}

// EnvName returns the environment form of a flag: "node-name" is WEFT_NODE_NAME.
func EnvName(flag string) string {
	return "WEFT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// FileKey returns the configuration file's form of a flag: "node-name" is nodeName.
func FileKey(flag string) string {
	parts := strings.Split(flag, "-")
	for i := 1; i < len(parts); i++ {
		parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
	}
	return strings.Join(parts, "")
}

// fill sets each flag that was not given on the command line from the environment, else from the
// file, else leaves the default.
func (r *raw) fill(fs *pflag.FlagSet) error {
	if v, ok := os.LookupEnv(EnvName("config")); ok && !fs.Changed("config") {
		r.file = v
	}
	file, err := readFile(r.file)
	if err != nil {
		return err
	}
	var errs []error
	known := map[string]bool{}
	fs.VisitAll(func(f *pflag.Flag) {
		key := FileKey(f.Name)
		known[key] = true
		if f.Changed || f.Name == "config" {
			return
		}
		if v, ok := os.LookupEnv(EnvName(f.Name)); ok {
			if err := f.Value.Set(v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", EnvName(f.Name), v, err))
			}
			return
		}
		if v, ok := file[key]; ok {
			if err := f.Value.Set(v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %q: %w", r.file, key, v, err))
			}
		}
	})
	for key := range file {
		if !known[key] {
			errs = append(errs, fmt.Errorf("%s: unknown key %q; known are %s", r.file, key, keys(known)))
		}
	}
	return errors.Join(errs...)
}

func keys(m map[string]bool) string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// readFile reads a flat YAML map; a list is joined with commas.
func readFile(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration file: %w", err)
	}
	var m map[string]any
	if err := yaml.UnmarshalStrict(b, &m); err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	out := map[string]string{}
	for k, v := range m {
		switch v := v.(type) {
		case []any:
			var parts []string
			for _, e := range v {
				parts = append(parts, fmt.Sprint(e))
			}
			out[k] = strings.Join(parts, ",")
		case map[string]any:
			return nil, fmt.Errorf("configuration file %s: key %q: want a value, not a map", path, k)
		default:
			out[k] = fmt.Sprint(v)
		}
	}
	return out, nil
}

func (r *raw) finish() (*Config, error) {
	c := r.Config
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("--node-name is not set and the host's name cannot be read: %w", err)
		}
		c.NodeName = strings.ToLower(host)
	}
	for e := range strings.SplitSeq(r.endpoints, ",") {
		if e = strings.TrimSpace(e); e != "" {
			c.Datastore.Endpoints = append(c.Datastore.Endpoints, e)
		}
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &c, nil
}

// Validate checks every field; each error names the flag.
func (c *Config) Validate() error {
	var errs []error
	bad := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", flag, fmt.Sprintf(format, args...)))
	}
	if m := validation.IsDNS1123Subdomain(c.NodeName); len(m) > 0 {
		bad("node-name", "%q: %s", c.NodeName, strings.Join(m, "; "))
	}
	for flag, dir := range map[string]string{"data-dir": c.DataDir, "run-dir": c.RunDir, "cni-bin-dir": c.CNIBinDir, "cni-conf-dir": c.CNIConfDir} {
		if dir == "" && c.CNIConfDir == "" && strings.HasPrefix(flag, "cni-") {
			continue
		}
		if !filepath.IsAbs(dir) {
			bad(flag, "%q: want an absolute path", dir)
		}
	}
	// A socket's path must fit sockaddr_un.sun_path, 108 bytes (unix(7)).
	if len(filepath.Join(c.RunDir, "etcd-peer.sock")) >= 108 {
		bad("run-dir", "%q is too long: the sockets in it must stay under 108 bytes", c.RunDir)
	}
	if c.Keeper != "" && !filepath.IsAbs(c.Keeper) {
		bad("keeper", "%q: want an absolute path", c.Keeper)
	}
	switch c.Datastore.Kind {
	case DatastoreEtcd:
		if c.Datastore.Kubeconfig != "" {
			bad("kubeconfig", "is for --datastore kubernetes, which is not asked for")
		}
	case DatastoreKubernetes:
		if len(c.Datastore.Endpoints) > 0 {
			bad("etcd-endpoints", "is for --datastore etcd, not for kubernetes")
		}
	default:
		bad("datastore", "%q: want etcd or kubernetes", c.Datastore.Kind)
	}
	for _, e := range c.Datastore.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
			// It may hold a password: the value is not repeated.
			bad("etcd-endpoints", "want http://HOST:PORT, https://HOST:PORT or unix:///PATH, comma separated")
		}
	}
	for flag, m := range map[string]string{"ip-autodetection-method": c.Address.Method4, "ip6-autodetection-method": c.Address.Method6} {
		if err := checkMethod(m); err != nil {
			bad(flag, "%v", err)
		}
	}
	for flag, l := range map[string]string{"health-listen": c.Health.Listen, "metrics-listen": c.Health.Metrics} {
		if _, _, err := net.SplitHostPort(l); l != "" && err != nil {
			bad(flag, "%q: want host:port: %v", l, err)
		}
	}
	for _, choice := range []struct {
		flag, value string
		of          []string
	}{
		{"log-level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log-format", c.Log.Format, []string{"text", "json"}},
		{"wireguard-driver", c.WireGuardDriver, []string{WireGuardAuto, "kernel", "userspace"}},
		{"ipip-driver", c.IPIPDriver, []string{IPIPAuto, "kernel", "ebpf"}},
		{"policy-driver", c.PolicyDriver, []string{PolicyAuto, "nftables", "iptables"}},
	} {
		if last := len(choice.of) - 1; !slices.Contains(choice.of, choice.value) {
			bad(choice.flag, "%q: want %s or %s", choice.value, strings.Join(choice.of[:last], ", "), choice.of[last])
		}
	}
	if c.EncryptionGrace < 0 {
		bad("encryption-grace", "%v: want 0 or more", c.EncryptionGrace)
	}
	if c.Resync < time.Second {
		bad("resync-interval", "%v: want at least 1s", c.Resync)
	}
	sort.Slice(errs, func(i, j int) bool { return errs[i].Error() < errs[j].Error() })
	return errors.Join(errs...)
}

func checkMethod(m string) error {
	if _, err := netip.ParseAddr(m); err == nil {
		return nil
	}
	name, arg, _ := strings.Cut(m, "=")
	switch name {
	case "auto", "first-found", "kubernetes-internal-ip", "none":
		if arg != "" {
			return fmt.Errorf("%q: %s takes no argument", m, name)
		}
		return nil
	case "interface", "skip-interface":
		for e := range strings.SplitSeq(arg, ",") {
			if _, err := regexp.Compile(e); err != nil || e == "" {
				return fmt.Errorf("%q: want regular expressions, comma separated", m)
			}
		}
		return nil
	case "can-reach":
		if _, err := netip.ParseAddr(arg); err != nil {
			return fmt.Errorf("%q: want an IP address", m)
		}
		return nil
	case "cidr":
		for e := range strings.SplitSeq(arg, ",") {
			if _, err := netip.ParsePrefix(e); err != nil {
				return fmt.Errorf("%q: want CIDRs, comma separated", m)
			}
		}
		return nil
	}
	return fmt.Errorf("%q: want auto, first-found, kubernetes-internal-ip, interface=REGEXP, skip-interface=REGEXP, can-reach=IP, cidr=CIDR, an address or none", m)
}
