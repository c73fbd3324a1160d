package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// Config says where the store is and how to reach it.
type Config struct {
	// Endpoints are http://host:port, https://host:port or unix:///path, all of one scheme.
	Endpoints []string
	// CAFile holds the PEM certificates that the server's is checked against; empty: the system's.
	CAFile string
	// CertFile and KeyFile are this client's own; both or neither. They are read again at every
	// connection, so that they can be renewed in place.
	CertFile, KeyFile string
	// Username and Password log in; Password or PasswordFile, not both.
	Username string
	Password string `json:"-"`
	// PasswordFile holds the password; a newline at its end is ignored.
	PasswordFile string
	// Prefix is the part of the key space used. Empty: "/weft".
	Prefix string
	// DialTimeout is how long a call waits for a connection (a store that restarts is not an
	// error), RequestTimeout how long it may take altogether (a list: one page). Zero: 2 s, 10 s.
	DialTimeout, RequestTimeout time.Duration
	// Observe, optional, is told of every request but watches: "Txn", "Range", "LeaseKeepAlive".
	Observe func(method string)
	// Logger gets the client's own warnings. nil: nothing.
	Logger *slog.Logger
}

// String prints the configuration without the password.
func (c Config) String() string {
	return fmt.Sprintf("etcd %s prefix %s user %q", strings.Join(c.Endpoints, ","), c.Prefix, c.Username)
}

// GoString is String: %#v must not print the password either.
func (c Config) GoString() string { return c.String() }

// LogValue is String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

func (c *Config) defaults() {
	if c.Prefix == "" {
		c.Prefix = "/weft"
	}
	if c.DialTimeout <= 0 {
		c.DialTimeout = 2 * time.Second
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate reports everything that is wrong, joined.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if len(c.Endpoints) == 0 {
		bad("no endpoint: want one or more of http://host:port, https://host:port, unix:///path")
	}
	scheme := ""
	for _, e := range c.Endpoints {
		s, err := checkEndpoint(e)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if scheme != "" && s != scheme {
			bad("endpoint %q: scheme differs from the others' (%s): use one for all", e, scheme)
		}
		scheme = s
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		bad("certificate file %q and key file %q: give both or neither", c.CertFile, c.KeyFile)
	}
	if scheme != "" && scheme != "https" && (c.CAFile != "" || c.CertFile != "") {
		bad("CA or certificate file with %s endpoints: use https endpoints or leave them out", scheme)
	}
	switch {
	case c.Password != "" && c.PasswordFile != "":
		bad("password and password file %q: give one", c.PasswordFile)
	case (c.Password != "" || c.PasswordFile != "") && c.Username == "":
		bad("password without a user name")
	case c.Username != "" && c.Password == "" && c.PasswordFile == "":
		bad("user name %q without a password or password file", c.Username)
	}
	if p := c.Prefix; p != "" && (!strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/") {
		bad(`prefix %q: want an absolute path such as "/weft"`, p)
	}
	return errors.Join(errs...)
}

func checkEndpoint(e string) (scheme string, err error) {
	u, err := url.Parse(e)
	if err != nil || u.Scheme == "" {
		return "", errors.New("endpoint is no URL: want http://host:port, https://host:port or unix:///path") // it may hold a password
	}
	if u.User != nil {
		return "", fmt.Errorf("endpoint %s: no user or password in an endpoint: use the settings for them", u.Redacted())
	}
	switch u.Scheme {
	case "http", "https":
		if u.Port() == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return "", fmt.Errorf("endpoint %q: want %s://host:port", e, u.Scheme)
		}
	case "unix":
		if u.Host != "" || !path.IsAbs(u.Path) {
			return "", fmt.Errorf("endpoint %q: want unix:///absolute/path", e)
		}
		if err := checkSocketPath(u.Path); err != nil {
			return "", fmt.Errorf("endpoint %q: %w", e, err)
		}
	default:
		return "", fmt.Errorf("endpoint %q: want http://host:port, https://host:port or unix:///path", e)
	}
	return u.Scheme, nil
}

// maxSocketPath is what sockaddr_un holds: 108 bytes with the zero at the end (unix(7)).
const maxSocketPath = 107

func checkSocketPath(p string) error {
	if len(p) > maxSocketPath {
		return fmt.Errorf("socket path %q has %d bytes, the kernel takes at most %d: use a shorter one", p, len(p), maxSocketPath)
	}
	return nil
}

// password returns the password, from its file if need be.
func (c *Config) password() (string, error) {
	if c.PasswordFile == "" {
		return c.Password, nil
	}
	b, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read password file: %w", err)
	}
	p := strings.TrimRight(string(b), "\r\n")
	if p == "" {
		return "", fmt.Errorf("password file %s is empty", c.PasswordFile)
	}
	return p, nil
}

// tlsConfig returns nil for endpoints without TLS.
func (c *Config) tlsConfig() (*tls.Config, error) {
	if !strings.HasPrefix(c.Endpoints[0], "https:") {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		certFile, keyFile := c.CertFile, c.KeyFile
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(certFile, keyFile)
			if err != nil {
				return nil, fmt.Errorf("load client certificate %s with key %s: %w", certFile, keyFile, err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return t, nil
}
