package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"weft/internal/kernel"
)

// onNode runs f on a thread in the network and mount namespaces of a node; processes that f starts
// are in them too. While the node runs, its own mount namespace is joined; else one that shows the
// same is made.
func (l *Lab) onNode(p Process, f func() error) error {
	r, err := l.processRecord(p.Name)
	if err != nil {
		return err
	}
	return kernel.Do(kernel.NetnsPath(p.Namespace), func() error {
		if r.alive() {
			// The node may end at this very moment: then its mounts are made anew.
			if err := joinMounts(r.PID); err == nil {
				return f()
			} else if r.alive() {
				return err
			}
		}
		if err := enterNodeMounts(l.dir, p.Dir); err != nil {
			return err
		}
		return f()
	})
}

// onPod runs f on a thread in a pod's network namespace, with /sys to match.
func (l *Lab) onPod(namespace, pod string, f func() error) error {
	name := l.PodNetns(namespace, pod)
	there, err := kernel.NetnsExists(name)
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("lab %s has no pod %s/%s", l.name, namespace, pod)
	}
	return kernel.Do(kernel.NetnsPath(name), func() error {
		if err := enterSys(); err != nil {
			return err
		}
		return f()
	})
}

// Exec replaces this process by a command in the namespaces of a node ("n1") or of a pod
// ("namespace/name"). It returns only when that fails.
func (l *Lab) Exec(target string, argv []string) error {
	s, err := l.readState()
	if err != nil {
		return err
	}
	env := os.Environ()
	run := func() error { return replaceProcess(l.binary, argv, env) }
	if ns, pod, isPod := strings.Cut(target, "/"); isPod {
		if err := checkPodName(ns, pod); err != nil {
			return err
		}
		return l.onPod(ns, pod, run)
	}
	p, err := l.process(s, target)
	if err != nil {
		return err
	}
	if !p.Own {
		return kernel.Do(kernel.NetnsPath(p.Namespace), run)
	}
	env = withDefault(env, "WEFT_ETCD_ENDPOINTS", l.StoreEndpoint())
	return l.onNode(p, run)
}

// replaceProcess is execve(2) by name. It works on any thread: the kernel ends the others, and the
// new program keeps the namespaces of the calling one.
func replaceProcess(self string, argv, env []string) error {
	if dir, err := os.Getwd(); err != nil || os.Chdir(dir) != nil {
		_ = os.Chdir("/")
	}
	path, err := exec.LookPath(argv[0])
	if errors.Is(err, exec.ErrNotFound) && (argv[0] == "weft" || argv[0] == "weft-cni") {
		path, err = filepath.Join(filepath.Dir(self), argv[0]), nil
	}
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return notRun(argv[0], err)
	}
	if err := syscall.Exec(path, argv, env); err != nil {
		return notRun(path, err)
	}
	return nil
}

// notRunError tells that a command could not be run.
type notRunError struct{ error }

func notRun(what string, err error) error { return &notRunError{fmt.Errorf("run %s: %w", what, err)} }

// Unwrap gives the cause.
func (e *notRunError) Unwrap() error { return errors.Unwrap(e.error) }

// CommandExitCode is the one that a shell ends with then: 127 for what is not there, else 126.
func (e *notRunError) CommandExitCode() int {
	if errors.Is(e.error, exec.ErrNotFound) || errors.Is(e.error, fs.ErrNotExist) {
		return 127
	}
	return 126
}

func withDefault(env []string, name, value string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return env
		}
	}
	return append(env, name+"="+value)
}
