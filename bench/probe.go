package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"weft/internal/kernel"
)

// run executes argv inside a network namespace and returns its standard output.
func run(ctx context.Context, netns string, argv ...string) ([]byte, error) {
	cmd, out, err := start(ctx, netns, argv...)
	if err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("%s in %s: %w: %s", strings.Join(argv, " "), netns, err, firstLine(out.String()))
	}
	return out.Bytes(), nil
}

// start begins argv inside a network namespace: a child has the namespace of the thread that forks.
func start(ctx context.Context, netns string, argv ...string) (*exec.Cmd, *bytes.Buffer, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := kernel.Do(kernel.NetnsPath(netns), cmd.Start); err != nil {
		return nil, nil, fmt.Errorf("start %s in %s: %w", argv[0], netns, err)
	}
	return cmd, out, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// pingResult is what ping counted.
type pingResult struct {
	Sent, Received int
	RTT            time.Duration // average
}

var (
	pingCounts = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)
	pingTimes  = regexp.MustCompile(`= [\d.]+/([\d.]+)/`)
)

// ping sends count echo requests, 10 ms apart. No answer at all is a result, not an error.
func ping(ctx context.Context, netns string, to netip.Addr, count int) (pingResult, error) {
	out, err := run(ctx, netns, "ping", "-q", "-n", "-c", strconv.Itoa(count), "-i", "0.01", "-W", "1", to.String())
	m := pingCounts.FindSubmatch(out)
	if m == nil {
		return pingResult{}, err
	}
	var r pingResult
	r.Sent, _ = strconv.Atoi(string(m[1]))
	r.Received, _ = strconv.Atoi(string(m[2]))
	if t := pingTimes.FindSubmatch(out); t != nil {
		ms, _ := strconv.ParseFloat(string(t[1]), 64)
		r.RTT = time.Duration(ms * float64(time.Millisecond))
	}
	return r, nil
}

// tcp measures one TCP stream for the given time with iperf3 and returns bits per second as the
// receiver counted them.
func tcp(ctx context.Context, client, server string, to netip.Addr, d time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d+20*time.Second)
	defer cancel()
	srv, out, err := start(ctx, server, "iperf3", "-s", "-1", "-B", to.String(), "--forceflush")
	if err != nil {
		return 0, err
	}
	defer func() { _ = srv.Wait() }()
	defer func() { _ = srv.Process.Kill() }()
	_ = out
	var last error
	for range 50 { // the server needs a moment until it listens
		b, err := run(ctx, client, "iperf3", "-J", "-C", "cubic", "-t", fmt.Sprintf("%.1f", d.Seconds()), "-c", to.String())
		bps, parseErr := receivedRate(b)
		if err == nil && parseErr == nil {
			return bps, nil
		}
		last = fmt.Errorf("iperf3 from %s to %s: %w", client, to, parseErr)
		if parseErr == nil {
			last = err
		}
		if !strings.Contains(string(b), "refused") {
			return 0, last
		}
		select {
		case <-ctx.Done():
			return 0, last
		case <-time.After(20 * time.Millisecond):
		}
	}
	return 0, last
}

// receivedRate reads iperf3 -J.
func receivedRate(b []byte) (float64, error) {
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				BPS float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return 0, fmt.Errorf("read iperf3's answer: %w", err)
	}
	if r.Error != "" {
		return 0, fmt.Errorf("iperf3: %s", r.Error)
	}
	return r.End.Received.BPS, nil
}
