package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

// certs is a CA, a server's certificate and a client's, as files.
type certs struct{ ca, serverCert, serverKey, clientCert, clientKey string }

func makeCerts(t *testing.T, dir string) certs {
	t.Helper()
	c := certs{filepath.Join(dir, "ca"), filepath.Join(dir, "sc"), filepath.Join(dir, "sk"), filepath.Join(dir, "cc"), filepath.Join(dir, "ck")}
	caKey := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	writePEM(t, c.ca, "CERTIFICATE", must[[]byte](t)(x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)))
	for i, f := range [][2]string{{c.serverCert, c.serverKey}, {c.clientCert, c.clientKey}} {
		key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		writePEM(t, f[0], "CERTIFICATE", must[[]byte](t)(x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)))
		writePEM(t, f[1], "EC PRIVATE KEY", must[[]byte](t)(x509.MarshalECPrivateKey(key)))
	}
	return c
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// externalServer is etcd as an administrator runs it: TLS with client certificates, and users, of
// whom "weft" may touch our prefix only.
func externalServer(t *testing.T, dir string, c certs) (endpoint string) {
	t.Helper()
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	client := url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", port)}
	peer := url.URL{Scheme: "unix", Host: "x:0"}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.UnsafeNoFsync, cfg.TickMs, cfg.ElectionMs = filepath.Join(dir, "ext"), true, 10, 100
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ClientTLSInfo = transport.TLSInfo{CertFile: c.serverCert, KeyFile: c.serverKey, TrustedCAFile: c.ca, ClientCertAuth: true}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e := must[*embed.Etcd](t)(embed.StartEtcd(cfg))
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	admin := must[*clientv3.Client](t)(clientv3.New(clientv3.Config{Endpoints: []string{client.String()}, TLS: adminTLS(t, c), Logger: zap.NewNop()}))
	defer func() { _ = admin.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	steps := []func() error{
		func() error { _, err := admin.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := admin.UserAdd(ctx, "weft", "secret-canary"); return err },
		func() error { _, err := admin.RoleAdd(ctx, "weft"); return err },
		func() error {
			_, err := admin.RoleGrantPermission(ctx, "weft", "/weft/", "/weft0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := admin.UserGrantRole(ctx, "weft", "weft"); return err },
		func() error { _, err := admin.AuthEnable(ctx); return err },
	}
	for i, step := range steps {
		if err := step(); err != nil && !strings.Contains(err.Error(), "already exists") {
			t.Fatalf("set up users, step %d: %v", i, err)
		}
	}
	return client.String()
}

func adminTLS(t *testing.T, c certs) *tls.Config {
	t.Helper()
	info := transport.TLSInfo{CertFile: c.clientCert, KeyFile: c.clientKey, TrustedCAFile: c.ca}
	return must[*tls.Config](t)(info.ClientConfig())
}

func TestExternalTLSAndAuth(t *testing.T) {
	dir := shortDir(t)
	c := makeCerts(t, dir)
	endpoint := externalServer(t, dir, c)
	passwordFile := filepath.Join(dir, "password")
	if err := os.WriteFile(passwordFile, []byte("secret-canary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Config{Endpoints: []string{endpoint}, CAFile: c.ca, CertFile: c.clientCert, KeyFile: c.clientKey,
		Username: "weft", PasswordFile: passwordFile, RequestTimeout: 5 * time.Second, DialTimeout: 2 * time.Second}
	s := openStore(t, good)
	must[v3.Object](t)(s.Create(t.Context(), node("n1", nil)))
	must[v3.Object](t)(s.Create(t.Context(), pool("p1", "10.0.0.0/16")))
	sink := storetest.NewRecorder()
	follow(t, s, sink, v3.KindNode, v3.KindIPPool)
	sink.Wait(t, "snapshot", 10*time.Second, func(r *storetest.Recorder) bool { return len(r.Changes) == 2 })
	must[v3.Object](t)(s.Update(t.Context(), node("n1", map[string]string{"a": "b"})))
	sink.Wait(t, "change", 10*time.Second, func(r *storetest.Recorder) bool { return len(r.Changes) == 3 })

	with := func(f func(*Config)) Config { c := good; f(&c); return c }
	for _, tc := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"wrong password", with(func(c *Config) { c.PasswordFile, c.Password = "", "wrong-canary" }), `refuses user "weft"`},
		{"no user", with(func(c *Config) { c.PasswordFile, c.Username = "", "" }), "refuses"},
		{"another's prefix", with(func(c *Config) { c.Prefix = "/other" }), "permission denied"},
		// TLS 1.3: whether the client reads the server's alert or fails to write first is chance.
		{"no client certificate", with(func(c *Config) { c.CertFile, c.KeyFile = "", "" }), "store unavailable"},
		{"another CA", with(func(c *Config) { c.CAFile = "" }), "unknown authority"},
	} {
		s := openStore(t, tc.cfg)
		err := s.Ping(t.Context())
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), endpoint) {
			t.Errorf("%s: %v; want %q", tc.name, err, tc.want)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v %v", err, tc.cfg, tc.cfg, tc.cfg.LogValue()), "canary") {
			t.Errorf("%s: a password is printed", tc.name)
		}
		t.Logf("%s: %v", tc.name, err)
	}
}

func TestConfigErrors(t *testing.T) {
	dir := shortDir(t)
	c := makeCerts(t, dir)
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "no endpoint"},
		{Config{Endpoints: []string{"127.0.0.1:2379"}}, "want http://host:port"},
		{Config{Endpoints: []string{"http://u:secret-canary@a:b:c"}}, "is no URL"},
		{Config{Endpoints: []string{"http://a"}}, "want http://host:port"},
		{Config{Endpoints: []string{"ftp://a:1"}}, "want http://host:port"},
		{Config{Endpoints: []string{"unix://relative/path"}}, "want unix:///absolute/path"},
		{Config{Endpoints: []string{"unix:///" + strings.Repeat("x", 120)}}, "at most 107"},
		{Config{Endpoints: []string{"http://a:1", "https://b:1"}}, "scheme differs"},
		{Config{Endpoints: []string{"http://u:secret-canary@a:1"}}, "no user or password in an endpoint"},
		{Config{Endpoints: []string{"http://a:1"}, CAFile: "x"}, "use https endpoints"},
		{Config{Endpoints: []string{"https://a:1"}, CertFile: "x"}, "both or neither"},
		{Config{Endpoints: []string{"https://a:1"}, CAFile: filepath.Join(dir, "none")}, "no such file"},
		{Config{Endpoints: []string{"https://a:1"}, CAFile: c.serverKey}, "no PEM certificate"},
		{Config{Endpoints: []string{"https://a:1"}, CertFile: c.clientCert, KeyFile: c.serverKey}, "load client certificate"},
		{Config{Endpoints: []string{"http://a:1"}, Username: "u"}, "without a password"},
		{Config{Endpoints: []string{"http://a:1"}, Password: "secret-canary"}, "without a user name"},
		{Config{Endpoints: []string{"http://a:1"}, Username: "u", PasswordFile: filepath.Join(dir, "none")}, "no such file"},
		{Config{Endpoints: []string{"http://a:1"}, Prefix: "weft/"}, "absolute path"},
	} {
		s, err := Open(t.Context(), tc.cfg)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v: %v; want %q", tc.cfg, err, tc.want)
		}
	}
}

// Nothing hangs while the store is away, or when it takes connections and says nothing.
func TestAwayAndMute(t *testing.T) {
	t.Parallel() // waits most of the time
	dir := shortDir(t)
	mute := must[net.Listener](t)(net.Listen("unix", filepath.Join(dir, "m")))
	defer func() { _ = mute.Close() }()
	for _, endpoint := range []string{"unix://" + filepath.Join(dir, "none"), "unix://" + filepath.Join(dir, "m"), "http://127.0.0.1:1"} {
		for _, user := range []string{"", "weft"} {
			s := openStore(t, Config{Endpoints: []string{endpoint}, Username: user, Password: user,
				DialTimeout: 200 * time.Millisecond, RequestTimeout: time.Second})
			begin := time.Now()
			_, err := s.List(t.Context(), v3.KindNode)
			if !errors.Is(err, datastore.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), endpoint) {
				t.Errorf("%s: %v, want unavailable", endpoint, err)
			}
			werr := s.Watch(t.Context(), "1", []string{v3.KindNode}, func([]datastore.Change) error { return nil })
			if !errors.Is(werr, datastore.ErrUnavailable) {
				t.Errorf("%s: watch: %v, want unavailable", endpoint, werr)
			}
			if d := time.Since(begin); d > 6*time.Second {
				t.Errorf("%s: took %v", endpoint, d)
			}
			t.Logf("%v after %v", err, time.Since(begin).Round(10*time.Millisecond))
			_ = s.Close()
		}
	}
}
