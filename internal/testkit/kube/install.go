package kube

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Manifests is a path below manifests/.
func Manifests(t testing.TB, path string) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "manifests", path)
}

// quickStart is the heading in README.md below which the commands are that install this project in a cluster.
const quickStart = "## In Kubernetes"

// InstallByReadme runs the commands of the quick start in README.md, as they stand there, and waits until all nodes are ready.
func (w *Whole) InstallByReadme(t testing.TB) {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(b), quickStart+"\n")
	_, text, begins := strings.Cut(text, "```sh\n")
	commands, _, ends := strings.Cut(text, "```")
	if !found || !begins || !ends {
		t.Fatalf("README.md has no commands below %q", quickStart)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-ec", commands)
	shell.Dir = root
	shell.Env = append(os.Environ(), "KUBECONFIG="+w.kubeconfig, "PATH="+filepath.Dir(w.kubectl)+":"+os.Getenv("PATH"), "HOME="+w.dir)
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("the quick start of README.md: %v\n%s\n%s", err, commands, out)
	}
	w.AwaitNodes(t, 60*time.Second)
	t.Logf("nodes ready %v after the first command of the quick start", time.Since(begin).Round(10*time.Millisecond))
}
