package cli

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	testkube "weft/internal/testkit/kube"
)

// TestKubernetesScripts runs commands against a Kubernetes API server.
func TestKubernetesScripts(t *testing.T) {
	c := testkube.Start(t)
	kubectl := testkube.Binary(t, "kubectl")
	admin, nobody := c.Kubeconfig(t, testkube.Admin, ""), c.Kubeconfig(t, testkube.Nobody, "")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/kube",
		WorkdirRoot:         t.TempDir(),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("KUBECONFIG", admin)
			env.Setenv("NOBODY", nobody)
			env.Setenv("PATH", env.Getenv("PATH")+":"+filepath.Dir(kubectl))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
	})
}
