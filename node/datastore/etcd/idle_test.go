package etcd

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/node/datastore"
)

const idleTime = 12 * time.Second // holds one keepalive at least

// followChild is this test binary as a process that only follows. It prints its resident memory
// and the CPU time of a stretch in which nothing changes.
func followChild(endpoint string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := Open(ctx, Config{Endpoints: []string{endpoint}})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	defer func() { _ = s.Close() }()
	n, inSync := 0, make(chan struct{}, 1)
	go func() {
		_ = datastore.Follow(ctx, s, []string{v3.KindNode, v3.KindIPPool}, countSink{&n, inSync}, datastore.FollowOptions{})
	}()
	<-inSync
	debug.FreeOSMemory()
	before := testkit.ProcessorTime()
	time.Sleep(idleTime)
	used := testkit.ProcessorTime() - before
	fmt.Println(n, residentKiB(), used.Microseconds())
	return 0
}

type countSink struct {
	n      *int
	inSync chan<- struct{}
}

func (c countSink) OnState(s datastore.State, _ error) {
	if s == datastore.StateInSync {
		c.inSync <- struct{}{}
	}
}

func (c countSink) OnChanges(ch []datastore.Change) { *c.n += len(ch) }

func residentKiB() (kib int) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	return kib
}

// A process that follows 5,000 nodes and to which nothing happens.
func TestIdleCost(t *testing.T) {
	t.Parallel() // waits most of the time
	if testing.Short() {
		t.Skip("measures for 12 s")
	}
	const nodes, maxKiB, maxShare = 5000, 60 << 10, 0.002
	s := testStore(t)
	fill(t, s, nodes)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEFT_TEST_FOLLOWER="+s.cfg.Endpoints[0])
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if err := cmd.Wait(); err != nil {
		t.Fatal(err, line)
	}
	var n, kib int
	var micros int64
	if _, err := fmt.Sscan(line, &n, &kib, &micros); err != nil || n != nodes {
		t.Fatalf("child said %q, want %d nodes: %v", line, nodes, err)
	}
	share := float64(micros) / float64(idleTime.Microseconds())
	if kib > maxKiB || share > maxShare {
		t.Errorf("%d KiB resident (at most %d), %.3f %% of a core (at most %.1f %%)", kib, maxKiB, 100*share, 100*maxShare)
	}
	t.Logf("%d nodes followed: %.1f MiB resident, %.3f %% of a core over %v", n, float64(kib)/1024, 100*share, idleTime)
}
