package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"weft/internal/kernel"
)

// run executes argv inside the network namespace at a path and returns its standard output.
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
	if err := kernel.Do(netns, cmd.Start); err != nil {
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
