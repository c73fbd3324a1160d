// Package kube keeps the cluster's resources in Kubernetes: a datastore.Store on the API server.
//
// # Which kind is what
//
// Kinds of projectcalico.org/v3 are custom resources of the same name (manifests/crds), the Node record of a
// node service included: what it takes over from Kubernetes' own Node (labels, addresses, pod ranges) it writes
// there itself (it follows KindHost), with an owner reference, so that the record goes when the Node does. Thus a node
// service reads one of Kubernetes' Node objects, its own, and is not told of the heartbeats of all others.
// Namespace, ServiceAccount, Service, EndpointSlice, NetworkPolicy and ClusterNetworkPolicy are Kubernetes' own;
// where ClusterNetworkPolicy is not installed there is none, until its definition comes. Of
// Secrets one is listed and watched, by name: that of BGP passwords.
//
// A WorkloadEndpoint is a pod that has addresses, is not on its host's network and has not finished. Of this
// node's pods it has everything, of others what policy needs: labels, service account, addresses, ports. A pod is read,
// turned into that, and forgotten: no Pod is kept. Its addresses are those that CNI wrote into the pod's
// annotations, else those of its status. Writing a WorkloadEndpoint writes these annotations, deleting it
// empties them; all else of it is the pod's.
//
// # Revisions
//
// Kubernetes gives each kind revisions of its own. A list of several kinds is consistent within each kind only,
// and its Revision holds one of each. datastore.Follow follows each kind by itself for that reason (Partition)
// and is in sync when all are. Custom resources have no writes that span several: that pools do not overlap and
// that a tier is there is looked at before a write, but two writers at the same moment may break it.
//
// The History is the cluster's: the UID of the namespace kube-system, and how often this process saw the server's
// revision go back. A revision that the server has no more, one that it has not yet, and events in no order lead to
// ErrCompacted, and so to a list. Kubernetes does not tell when a watch has caught up: it has when it brought what
// the server had when the watch began, or nothing for a while (settleTime) after that was known.
// Everything is listed again now and then (Config.Relist), since nobody would notice an event that got lost.
package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// Config says which cluster, and as whom.
type Config struct {
	// Kubeconfig is a kubeconfig file, or several as in KUBECONFIG. Empty: the service account of the pod that
	// this process runs in.
	Kubeconfig string
	// Context is the kubeconfig's to use. Empty: its current one.
	Context string
	// AsKubectl has an empty Kubeconfig mean what it does to kubectl: KUBECONFIG, ~/.kube/config, or the pod.
	AsKubectl bool
	// NodeName is the node whose pods are read in full. Empty: all are.
	NodeName string
	// Waiting has the WorkloadEndpoints of pods that have no addresses read as well, without addresses: a pod that is
	// started, or whose annotations somebody emptied, may have what is held in its name.
	Waiting bool
	// RequestTimeout bounds one call. Zero: 10 s.
	RequestTimeout time.Duration
	// Relist is after how long everything of a kind is listed again although nothing is known to have gone wrong. Of
	// more than relistObjects objects it is longer in proportion. Zero: 30 min.
	Relist time.Duration
	// Logger gets the API server's warnings, at Debug. nil: nothing.
	Logger *slog.Logger
}

// relistObjects is up to how many objects of a kind are listed every Config.Relist: at most 5 a second, a list of
// which costs the API server some 100 us each.
const relistObjects = 9000

func (c *Config) defaults() {
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 10 * time.Second
	}
	if c.Relist <= 0 {
		c.Relist = 30 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Store is a client of the API server. It implements datastore.Store, Streamer, Pager and Partitioner.
type Store struct {
	cfg     Config
	client  *rest.RESTClient
	server  string // URL, for messages
	sources map[string]*source
	gate    gate
	closed  context.Context // ends with Close
	close   context.CancelFunc

	mu      sync.Mutex
	uid     string    // of the cluster; empty: not known yet
	checked time.Time // when uid was asked for last
	setBack int       // how often the revision went back
	listed  map[string]listed
}

// listed tells of the last list of a kind.
type listed struct {
	at    time.Time
	count int
}

var (
	_ datastore.Store       = (*Store)(nil)
	_ datastore.Streamer    = (*Store)(nil)
	_ datastore.Pager       = (*Store)(nil)
	_ datastore.Partitioner = (*Store)(nil)
	_ datastore.Leaser      = (*Store)(nil)
	_ datastore.Inventory   = (*Store)(nil)

	_ datastore.ConditionWriter = (*Store)(nil)
)

// Open reads the kubeconfig and returns the Store. It does not contact the server; Ping does.
func Open(cfg Config) (*Store, error) {
	cfg.defaults()
	conf, err := RESTConfig(cfg)
	if err != nil {
		return nil, err
	}
	conf.QPS = -1 // the server says when it is too much; see gate
	conf.WarningHandler = &warnings{cfg.Logger}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"}) // the server's errors
	conf.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	conf.GroupVersion, conf.APIPath = &schema.GroupVersion{Version: "v1"}, "/api"
	client, err := rest.RESTClientFor(conf)
	if err != nil {
		return nil, fmt.Errorf("set up the Kubernetes client for %s: %w", conf.Host, err)
	}
	s := &Store{cfg: cfg, client: client, server: conf.Host, sources: map[string]*source{}, listed: map[string]listed{}}
	for _, src := range sources(cfg.NodeName, cfg.Waiting) {
		s.sources[src.kind] = src
	}
	s.closed, s.close = context.WithCancel(context.Background())
	return s, nil
}

// HTTPClient returns a client for the API server of a Config, with the credentials, and where the server is. It contacts
// nobody.
func HTTPClient(cfg Config) (*http.Client, *url.URL, error) {
	conf, err := RESTConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	client, err := rest.HTTPClientFor(conf)
	if err != nil {
		return nil, nil, fmt.Errorf("set up the Kubernetes client for %s: %w", conf.Host, err)
	}
	base, _, err := rest.DefaultServerUrlFor(conf)
	if err != nil {
		return nil, nil, fmt.Errorf("set up the Kubernetes client for %s: %w", conf.Host, err)
	}
	return client, base, nil
}

// RESTConfig says where the API server is, and as whom it is asked. Errors name the kubeconfig and quote nothing of it.
func RESTConfig(cfg Config) (*rest.Config, error) {
	if cfg.Kubeconfig == "" && !cfg.AsKubectl {
		conf, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the Kubernetes API server: %w; name a kubeconfig file", err)
		}
		conf.UserAgent = "weft"
		return conf, nil
	}
	client, name := cfg.loader()
	conf, err := client.ClientConfig()
	if err != nil {
		return nil, unreadable(name, err)
	}
	conf.UserAgent = "weft"
	return conf, nil
}

// Namespace is what the kubeconfig's context says of it: "default" where it says nothing.
func Namespace(cfg Config) (string, error) {
	client, name := cfg.loader()
	namespace, _, err := client.Namespace()
	if err != nil {
		return "", unreadable(name, err)
	}
	return namespace, nil
}

// loader reads the kubeconfig; name is what to call it.
func (c *Config) loader() (client clientcmd.ClientConfig, name string) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}
	name = c.Kubeconfig
	if c.Kubeconfig == "" {
		rules = clientcmd.NewDefaultClientConfigLoadingRules()
		name = strings.Join(rules.Precedence, string(filepath.ListSeparator))
	} else if files := filepath.SplitList(c.Kubeconfig); len(files) > 1 {
		rules = &clientcmd.ClientConfigLoadingRules{Precedence: files}
	}
	rules.WarnIfAllMissing = false
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context}), name
}

// unreadable says why a kubeconfig leads nowhere; the parser's text may quote the file, which may hold a token.
func unreadable(name string, err error) error {
	if errors.Is(err, clientcmd.ErrEmptyConfig) || clientcmd.IsEmptyConfig(err) {
		return fmt.Errorf("kubeconfig %s names no cluster", name)
	}
	return fmt.Errorf("read kubeconfig %s: %w", name, readable(err))
}

// readable keeps what a parser quotes of a file out of its error.
func readable(err error) error {
	if file := (*fs.PathError)(nil); errors.As(err, &file) {
		return file
	}
	if text := err.Error(); strings.Contains(text, "yaml:") || strings.Contains(text, "json:") || strings.Contains(text, "couldn't get version/kind") {
		return errors.New("it is no kubeconfig file")
	}
	return err
}

// warnings are what the server says beside its answers.
type warnings struct{ log *slog.Logger }

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.log.Debug("the Kubernetes API server warns", "text", text)
}

// Partition implements datastore.Partitioner: no two kinds have a revision in common.
func (s *Store) Partition(kinds []string) [][]string {
	out := make([][]string, len(kinds))
	for i, k := range kinds {
		out[i] = []string{k}
	}
	return out
}

// Server is the URL of the API server.
func (s *Store) Server() string { return s.server }

// Ping asks for the IPPools, one at most, and tells why it could not.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.head(ctx, s.sources[v3.KindIPPool]); err != nil {
		return fmt.Errorf("reach datastore: %w", err)
	}
	return nil
}

// Close ends every call and watch under way.
func (s *Store) Close() error {
	s.close()
	if s.client.Client != nil {
		s.client.Client.CloseIdleConnections()
	}
	return nil
}

func (s *Store) source(kind string) (*source, error) {
	if src := s.sources[kind]; src != nil {
		return src, nil
	}
	return nil, fmt.Errorf("kind %q is not known here: %w", kind, datastore.ErrInvalid)
}
