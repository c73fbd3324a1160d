// Package kube runs a real kube-apiserver on an embedded etcd for tests: RBAC on, a token for each role,
// this project's CRDs applied. The programs are those that hack/kubetools.sh builds.
package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/testkit"
)

// Feature stands for these programs in testkit.HasVariable: where it is listed, as in make test-kube, a
// test that lacks them fails. Elsewhere it is skipped, which testlog lets pass for this feature: building
// Kubernetes is left to make test-kube, which runs every such test.
const Feature = "kube"

// Binary returns the path of one of Kubernetes' programs, or skips the test.
func Binary(t testing.TB, name string) string {
	t.Helper()
	path, err := find(name)
	if err == nil {
		return path
	}
	absent(t, err)
	return ""
}

// Here tells whether a test that needs these programs would not be skipped.
func Here() bool {
	_, err := find("kube-apiserver")
	return err == nil || hasToBe()
}

// Root is the folder of this project's go.mod, above the test's.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		switch {
		case err == nil && strings.HasPrefix(string(b), "module weft\n"):
			return dir, nil
		case filepath.Dir(dir) == dir:
			return "", errors.New("no folder above has this project's go.mod")
		}
		dir = filepath.Dir(dir)
	}
}

// find returns where hack/kubetools.sh puts a program.
func find(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, f := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(root, "test/kubetools", f))
		if err != nil {
			return "", err
		}
		_, _ = sum.Write(b)
	}
	cache := os.Getenv("WEFT_CACHE")
	if cache == "" {
		cache = filepath.Join(root, ".cache")
	}
	path := filepath.Join(cache, "kube", hex.EncodeToString(sum.Sum(nil))[:12], name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s has not been built: %w", name, err)
	}
	return path, nil
}

// Image returns the file of a container image that make test-kube has built, or skips the test: elsewhere an image that
// is there may be of other code than this.
func Image(t testing.TB, name string) string {
	t.Helper()
	if !hasToBe() {
		absent(t, fmt.Errorf("image %s may be old", name))
	}
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "bin", name+"-image.tar")
	if _, err := os.Stat(path); err != nil {
		absent(t, fmt.Errorf("image %s has not been built: %w", name, err))
	}
	return path
}

// absent skips the test, or fails it where everything has to be there.
func absent(t testing.TB, err error) {
	t.Helper()
	if hasToBe() {
		t.Fatalf("%v, although %s says that it is there", err, testkit.HasVariable)
	}
	t.Skipf("%s %s: %v: make test-kube gets it and runs this test", testkit.SkipMark, Feature, err)
}

// hasToBe tells that nothing may be absent.
func hasToBe() bool {
	return slices.Contains(strings.Split(os.Getenv(testkit.HasVariable), ","), Feature)
}
