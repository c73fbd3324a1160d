package flows

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"weft/node/status"
)

// Path is where the node serves flows, and CountersPath where counters.
const (
	Path         = "flows"
	CountersPath = "counters"
)

// Line is one line of the answer: a Flow, or how many are not shown.
type Line struct {
	*Flow
	// Missed flows were not sent, since the client read too slowly.
	Missed uint64 `json:"missed,omitempty"`
	// Lost packets the kernel did not hand over since the node started, as it read too slowly; Strange
	// ones bore no tag that it understands. Told when they change, and at the end.
	Lost    uint64 `json:"lost,omitempty"`
	Strange uint64 `json:"strange,omitempty"`
}

// Query says which flows a client wants.
type Query struct {
	Follow    bool
	Denied    bool   // those that were dropped only
	Namespace string // about pods or policies of it; empty: all
}

func (q Query) String() string {
	v := url.Values{}
	set := func(yes bool, key, value string) {
		if yes {
			v.Set(key, value)
		}
	}
	set(q.Follow, "follow", "1")
	set(q.Denied, "denied", "1")
	set(q.Namespace != "", "namespace", q.Namespace)
	return Path + "?" + v.Encode()
}

func (q Query) wants(f *Flow) bool {
	return (!q.Denied || f.Denied()) && f.about(q.Namespace)
}

// Handler serves GET /flows: one JSON object a line. See Query for its parameters.
func (r *Recorder) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := req.URL.Query()
		q := Query{Follow: v.Get("follow") != "", Denied: v.Get("denied") != "", Namespace: v.Get("namespace")}
		w.Header().Set("Content-Type", "application/x-ndjson")
		s := sender{w: w, enc: json.NewEncoder(w), query: q, ring: &r.ring}
		kept, reader := r.ring.last(q.Follow)
		if reader != nil {
			defer r.ring.leave(reader)
			s.reader = reader
		}
		for i := range kept {
			if !s.send(&kept[i]) {
				return
			}
		}
		if s.losses() && q.Follow {
			s.follow(req.Context())
		}
	})
}

// sender writes lines for one client.
type sender struct {
	w             http.ResponseWriter
	enc           *json.Encoder
	query         Query
	ring          *ring
	reader        *reader
	lost, strange uint64
}

func (s *sender) send(f *Flow) bool {
	return !s.query.wants(f) || s.enc.Encode(Line{Flow: f}) == nil
}

// losses tells of what is not shown, when that changed, and has the client see all that was written.
func (s *sender) losses() bool {
	lost, strange, missed := s.ring.losses(s.reader)
	if lost != s.lost || strange != s.strange || missed > 0 {
		s.lost, s.strange = lost, strange
		if s.enc.Encode(Line{Missed: missed, Lost: lost, Strange: strange}) != nil {
			return false
		}
	}
	return http.NewResponseController(s.w).Flush() == nil
}

// tell is how often a follower hears of losses when nothing else comes.
const tell = time.Second

func (s *sender) follow(ctx context.Context) {
	tick := time.NewTicker(tell)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case f := <-s.reader.flows:
			ok := s.send(&f)
			for n := len(s.reader.flows); ok && n > 0; n-- {
				f = <-s.reader.flows
				ok = s.send(&f)
			}
			if !ok {
				return
			}
		}
		if !s.losses() {
			return
		}
	}
}

// maxLine bounds one line of an answer in bytes.
const maxLine = 64 << 10

// ErrNotServed is for a node without flows.
var ErrNotServed = errors.New("the node does not serve flows")

// Read asks the node that keeps runDir for flows, over its Unix socket, and calls each for every line,
// until the answer ends, ctx does or each returns an error.
func Read(ctx context.Context, runDir string, q Query, each func(*Line) error) error {
	socket := filepath.Join(runDir, status.SocketName)
	code, body, err := status.Open(ctx, runDir, q.String())
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	switch code {
	case http.StatusOK:
	case http.StatusNotFound:
		return ErrNotServed
	default:
		text, _ := io.ReadAll(io.LimitReader(body, 300))
		return fmt.Errorf("ask %s for flows: it answers %d: %s", socket, code, strings.TrimSpace(string(text)))
	}
	if err := Lines(body, each); err != nil {
		return fmt.Errorf("read the flows of %s: %w", socket, err)
	}
	return nil
}

// Lines reads an answer from r and calls each for every line, until r ends or each returns an error, which is returned
// as it is.
func Lines(r io.Reader, each func(*Line) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		l := &Line{}
		if err := json.Unmarshal(lines.Bytes(), l); err != nil {
			return err
		}
		if err := each(l); err != nil {
			return err
		}
	}
	return lines.Err()
}
