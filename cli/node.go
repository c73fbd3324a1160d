package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weft/node/status"
)

const (
	defaultRunDir  = "/run/weft"
	runDirEnv      = "WEFT_RUN_DIR"
	etcdSocketName = "etcd.sock"
	// nodeTimeout bounds one question to the local node, which answers from memory.
	nodeTimeout = 5 * time.Second
)

// envOr returns the environment variable name, or otherwise.
func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// nodeGet asks the node that keeps runDir for path.
func nodeGet(ctx context.Context, runDir, path string) ([]byte, error) {
	socket := filepath.Join(runDir, status.SocketName)
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	code, body, err := status.Ask(ctx, runDir, path)
	switch {
	case err != nil:
		return nil, nodeAway(path, socket, err)
	case code == http.StatusNotFound:
		return nil, &notServedError{path, socket, firstLine(body)}
	case code != http.StatusOK:
		return nil, fmt.Errorf("ask the local node for %s at %s: it answers %d %s: %s; see the node's log", path, socket, code, http.StatusText(code), firstLine(body))
	}
	return body, nil
}

// notServedError tells that the node does not know a path.
type notServedError struct{ path, socket, answer string }

// Error says what the node answered.
func (e *notServedError) Error() string {
	return fmt.Sprintf("ask the local node for %s at %s: it does not have it: %s; compare `weft version` with the version in `weft status`", e.path, e.socket, e.answer)
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	const most = 300
	if r := []rune(line); len(r) > most {
		line = string(r[:most]) + "…"
	}
	return line
}

// nodeAway explains why a node could not be asked.
func nodeAway(path, socket string, err error) error {
	advice := "see the node's log"
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		advice = "is weft node running? if its run directory is another one, give --run-dir"
	case errors.Is(err, fs.ErrPermission):
		advice = "only root may ask the node: try with sudo"
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("no answer within %v", nodeTimeout)
	}
	return fmt.Errorf("ask the local node for %s at %s: %w; %s", path, socket, rootCause(err), advice)
}

// rootCause strips what was asked, "dial unix …: connect:" and the like, which repeat what is said
// already.
func rootCause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}
