package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"weft/internal/testkit"
)

// TestScripts runs testdata/script: one file for each verb, with the real programs. Every script
// has a lab of its own, $LAB, in the place where users have theirs; afterwards nothing of it may be
// left.
func TestScripts(t *testing.T) {
	testkit.RequireRoot(t)
	binary := binaries.weft(t)
	testscript.Run(t, testscript.Params{
		Dir:         filepath.Join("testdata", "script"),
		WorkdirRoot: t.TempDir(),
		Setup: func(env *testscript.Env) error {
			name := fmt.Sprintf("s%d-%d", os.Getpid(), labs.Add(1))
			env.Setenv("LAB", name)
			env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
			l, err := New(name, Options{Binary: binary})
			if err != nil {
				return err
			}
			env.Defer(func() { cleanScript(t, l) })
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

func cleanScript(t *testing.T, l *Lab) {
	if _, err := l.Down(context.Background()); err != nil {
		t.Errorf("down: %v", err)
	}
	for _, left := range leftovers(t, l) {
		// Other labs of this machine have their files in the same place.
		if strings.HasPrefix(left, "file ") && !strings.HasPrefix(left, "file "+l.dir) {
			continue
		}
		if strings.HasPrefix(left, "mount ") && !strings.Contains(left, l.name) {
			continue
		}
		t.Errorf("left behind: %s", left)
	}
}

// exits CODE COMMAND... runs a command that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}
