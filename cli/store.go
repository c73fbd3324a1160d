package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/node/datastore"
	"weft/node/datastore/etcd"
	"weft/node/datastore/kube"
)

const (
	// connectTimeout is how long a store may take for its first answer.
	connectTimeout = 3 * time.Second
	// requestTimeout bounds one call after that.
	requestTimeout = 10 * time.Second
)

// storeFlags say where the cluster's resources are.
type storeFlags struct {
	endpoints    []string
	caFile       string
	certFile     string
	keyFile      string
	user         string
	passwordFile string
	kubeconfig   string
	context      string
	runDir       string
	runDirGiven  func() bool
	// kubeconfigGiven: on the command line, where nothing else may be meant.
	kubeconfigGiven func() bool
	// waiting: pods that say of no address count, since they may have what is held for them.
	waiting bool
	cmd     *cobra.Command
}

func addStoreFlags(c *cobra.Command) *storeFlags {
	s := &storeFlags{cmd: c}
	f := c.Flags()
	var endpoints []string
	if v := os.Getenv("WEFT_ETCD_ENDPOINTS"); v != "" {
		endpoints = strings.Split(v, ",")
	}
	f.StringSliceVar(&s.endpoints, "etcd-endpoints", endpoints, "etcd `URLs` of the store, comma separated (env WEFT_ETCD_ENDPOINTS)")
	for _, o := range []struct {
		at          *string
		name, usage string
	}{
		{&s.caFile, "etcd-cacert", "`file` with the CA certificates of that etcd"},
		{&s.certFile, "etcd-cert", "`file` with the client certificate for it"},
		{&s.keyFile, "etcd-key", "`file` with the key of the client certificate"},
		{&s.user, "etcd-user", "user `name` at that etcd; its password is in --etcd-password-file or WEFT_ETCD_PASSWORD"},
		{&s.passwordFile, "etcd-password-file", "`file` with the password of the user"},
	} {
		env := "WEFT_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
		f.StringVar(o.at, o.name, os.Getenv(env), o.usage+" (env "+env+")")
	}
	f.StringVar(&s.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "`file` that leads to the Kubernetes API server whose resources are meant (env KUBECONFIG)")
	f.StringVar(&s.context, "context", "", "`name` of the kubeconfig's context to use, instead of its current one")
	addRunDir(c, &s.runDir)
	s.kubeconfigGiven = func() bool { return f.Changed("kubeconfig") || f.Changed("context") }
	s.runDirGiven = func() bool { return f.Changed("run-dir") || os.Getenv(runDirEnv) != "" }
	hideDefaults(c, "etcd-endpoints", "kubeconfig", "etcd-cacert", "etcd-cert", "etcd-key", "etcd-user", "etcd-password-file")
	return s
}

// hideDefaults keeps values that came from the environment out of the help.
func hideDefaults(c *cobra.Command, flags ...string) {
	for _, name := range flags {
		f := c.Flags().Lookup(name)
		f.DefValue = ""
		if f.Value.Type() == "stringSlice" {
			f.DefValue = "[]"
		}
	}
}

// config returns where the store is.
func (s *storeFlags) config() (etcd.Config, error) {
	cfg := etcd.Config{
		CAFile: s.caFile, CertFile: s.certFile, KeyFile: s.keyFile,
		Username: s.user, PasswordFile: s.passwordFile,
		RequestTimeout: requestTimeout,
	}
	if cfg.PasswordFile == "" && cfg.Username != "" {
		cfg.Password = os.Getenv("WEFT_ETCD_PASSWORD")
	}
	for _, e := range s.endpoints {
		if e = strings.TrimSpace(e); e != "" {
			cfg.Endpoints = append(cfg.Endpoints, e)
		}
	}
	if len(cfg.Endpoints) == 0 {
		socket, err := filepath.Abs(filepath.Join(s.runDir, etcdSocketName))
		if err != nil {
			return cfg, fmt.Errorf("find the store: %w", err)
		}
		cfg.Endpoints = []string{"unix://" + socket}
	}
	return cfg, nil
}

// kubernetes tells that a Kubernetes API server is meant: one was named, and nothing else closer by.
func (s *storeFlags) kubernetes() bool {
	if isPlugin(s.cmd) || s.context != "" {
		return true
	}
	return s.kubeconfig != "" && (s.kubeconfigGiven() || strings.Join(s.endpoints, "") == "" && !s.runDirGiven())
}

// kubeConfig says which Kubernetes API server is meant.
func (s *storeFlags) kubeConfig() kube.Config {
	cfg := kube.Config{Kubeconfig: s.kubeconfig, Context: s.context, AsKubectl: true, Waiting: s.waiting, RequestTimeout: requestTimeout}
	if isPlugin(s.cmd) && !s.cmd.Flags().Changed("kubeconfig") {
		cfg.Kubeconfig = "" // KUBECONFIG, of which kubectl lets files be missing
	}
	return cfg
}

// openKubernetes is openWithin for a Kubernetes API server.
func (s *storeFlags) openKubernetes(ctx context.Context, limit time.Duration) (datastore.Store, error) {
	store, err := kube.Open(s.kubeConfig())
	if err != nil {
		return nil, fmt.Errorf("find the store: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := store.Ping(ctx); err != nil {
		_ = store.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", limit)
		}
		return nil, fmt.Errorf("cannot reach the store at %s, which the kubeconfig leads to: %w", store.Server(), err)
	}
	return store, nil
}

// open connects and waits for the store's first answer, so that a store which is away is told at
// once and in one way.
func (s *storeFlags) open(ctx context.Context) (datastore.Store, error) {
	return s.openWithin(ctx, connectTimeout)
}

func (s *storeFlags) openWithin(ctx context.Context, limit time.Duration) (datastore.Store, error) {
	if s.kubernetes() {
		return s.openKubernetes(ctx, limit)
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	// The client gives its reason for not having connected when its own time is over: let that be
	// before ours.
	cfg.DialTimeout = limit * 4 / 5
	where := strings.Join(cfg.Endpoints, ",")
	if err := socketThere(cfg.Endpoints); err != nil {
		return nil, storeAway(where, err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	store, err := etcd.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("find the store: %w", err)
	}
	if err := store.Ping(ctx); err != nil {
		store.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", limit)
		}
		return nil, storeAway(where, err)
	}
	return store, nil
}

// socketThere finds a missing or forbidden Unix socket before the client spends its time on it.
func socketThere(endpoints []string) error {
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "unix" {
			continue
		}
		if _, err := os.Stat(u.Path); err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) {
				err = pe.Err
			}
			return err
		}
	}
	return nil
}

func storeAway(where string, err error) error {
	advice := "is weft node running? name another store with --etcd-endpoints or WEFT_ETCD_ENDPOINTS"
	if errors.Is(err, fs.ErrPermission) {
		advice = "only root may use the store of the local node: try with sudo"
	}
	// The driver says where it asked and that it was away; both are said here.
	text := err.Error()
	if _, after, ok := strings.Cut(text, "etcd at "+where); ok {
		text = strings.TrimLeft(after, ": ")
	}
	text = strings.TrimSuffix(text, ": "+datastore.ErrUnavailable.Error())
	return &storeAwayError{fmt.Sprintf("cannot reach the store at %s: %s; %s", where, text, advice), err}
}

// storeAwayError is an error with a text of its own.
type storeAwayError struct {
	text  string
	cause error
}

// Error says where, why and what to do.
func (e *storeAwayError) Error() string { return e.text }

// Unwrap gives the cause.
func (e *storeAwayError) Unwrap() error { return e.cause }
