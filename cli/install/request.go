package install

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// refusal is an answer that says no.
type refusal struct {
	code int
	text string
}

// Error is what the API server says.
func (r *refusal) Error() string { return r.text }

// do makes a request, again and again while the API server is busy, fails or cannot be reached, until ctx ends.
func (c *Cluster) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	b, err := c.once(ctx, method, path, body)
	if !passing(ctx, err) {
		return b, err
	}
	c.Say("%s: %v; trying again", c.Base, err)
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		if wait(ctx, pause) != nil {
			return nil, fmt.Errorf("%w; tried until the time was over", err)
		}
		last := err
		if b, err = c.once(ctx, method, path, body); !passing(ctx, err) {
			if err != nil && ctx.Err() != nil {
				err = fmt.Errorf("%w; tried until the time was over", last)
			}
			return b, err
		}
	}
}

// passing tells whether what failed may go well later. A name that nobody knows or a certificate that is not trusted
// does not pass.
func passing(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return refused.code == http.StatusTooManyRequests || refused.code >= http.StatusInternalServerError
	}
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	return (!errors.As(err, &name) || !name.IsNotFound) && !errors.As(err, &certificate)
}

// answerWithin bounds one request; the API server itself gives up after a minute.
const answerWithin = time.Minute

// once makes a request. A connection that breaks, also in the middle of the answer, is an error that is not a refusal.
func (c *Cluster) once(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	at, err := c.Base.Parse(strings.TrimSuffix(c.Base.Path, "/") + path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/apply-patch+yaml")
	}
	resp, err := c.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		var s struct{ Message string }
		if json.Unmarshal(b, &s) != nil || s.Message == "" {
			s.Message = resp.Status
		}
		err = &refusal{resp.StatusCode, s.Message}
	}
	return b, err
}
