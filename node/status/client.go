package status

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
)

// MaxAnswer bounds what is read of an answer, in bytes: 5,000 peers of some hundred bytes fit well.
const MaxAnswer = 64 << 20

var errTooLong = fmt.Errorf("the answer is longer than %d bytes, which is a bug of that node: please report it", MaxAnswer)

// Open sends GET path to the node that keeps runDir, over its Unix socket, and returns the HTTP status code and the
// body, which ends when the answer or ctx does. The caller closes it. An error means that the node did not answer.
func Open(ctx context.Context, runDir, path string) (code int, body io.ReadCloser, err error) {
	socket := filepath.Join(runDir, SocketName)
	transport := &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://unix/"+path, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("ask %s for %s: %w", socket, path, err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask %s for %s: %w", socket, path, err)
	}
	return res.StatusCode, res.Body, nil
}

// Ask is Open for an answer that is read whole.
func Ask(ctx context.Context, runDir, path string) (code int, body []byte, err error) {
	code, from, err := Open(ctx, runDir, path)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = from.Close() }()
	body, err = io.ReadAll(io.LimitReader(from, MaxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("ask %s for %s: %w", filepath.Join(runDir, SocketName), path, err)
	}
	if len(body) > MaxAnswer {
		return 0, nil, fmt.Errorf("ask %s for %s: %w", filepath.Join(runDir, SocketName), path, errTooLong)
	}
	return code, body, nil
}

// Fetch returns the Status of the node that keeps runDir.
func Fetch(ctx context.Context, runDir string) (*Status, error) {
	code, body, err := Ask(ctx, runDir, "status")
	if err != nil {
		return nil, err
	}
	if code != http.StatusOK {
		return nil, fmt.Errorf("ask the node at %s for its status: it answers %d", runDir, code)
	}
	s := &Status{}
	if err := json.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("read the status of the node at %s: %w", runDir, err)
	}
	return s, nil
}
