package etcd

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

// serveChild is this test binary as a server of its own, until it is killed. It writes to disk as
// the real one does.
func serveChild(dir string) int {
	s, err := StartServer(context.Background(), ServerConfig{DataDir: filepath.Join(dir, "d"), Socket: filepath.Join(dir, "s"), Tick: 10 * time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // ends with the parent
	if err := s.Close(); err != nil {
		fmt.Println("error", err)
		return 1
	}
	return 0
}

type child struct {
	cmd   *exec.Cmd
	stdin interface{ Close() error }
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEFT_TEST_SERVER="+dir)
	cmd.Stderr = os.Stderr
	in := must[interface {
		Write([]byte) (int, error)
		Close() error
	}](t)(cmd.StdinPipe())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("child server said %q, %v", line, err)
	}
	return &child{cmd, in}
}

func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = c.cmd.Wait()
	_ = c.stdin.Close()
}

// acks holds the highest number that the store acknowledged for each key.
type acks struct {
	mu    sync.Mutex
	value map[string]int
	total int
}

// Writers write while the server is killed 20 times. What was acknowledged must be there, and a
// follower must end with what is stored.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	const kills, writers = 20, 8
	dir := shortDir(t)
	server := startChild(t, dir)
	defer func() { server.kill(t) }()
	s := openStore(t, Config{Endpoints: []string{"unix://" + filepath.Join(dir, "s")}, RequestTimeout: 2 * time.Second})
	sink := storetest.NewRecorder()
	stopFollow := follow(t, s, sink, v3.KindNode)

	got := acks{value: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { writeUntil(ctx, s, w, &got) })
	}
	for range kills {
		time.Sleep(time.Duration(30+rand.IntN(250)) * time.Millisecond)
		server.kill(t)
		server = startChild(t, dir) // the socket of the dead one is still there
	}
	time.Sleep(200 * time.Millisecond)
	cancel()
	wg.Wait()
	s.commits.wg.Wait() // nothing is written any more

	lost := 0
	stored := map[string]int{}
	for _, o := range must[*datastore.List](t)(s.List(t.Context(), v3.KindNode)).Items {
		var i int
		_, _ = fmt.Sscan(o.GetLabels()["i"], &i)
		stored[o.GetName()] = i
	}
	for name, want := range got.value {
		if stored[name] < want {
			lost++
			t.Errorf("%s: %d acknowledged, %d stored", name, want, stored[name])
		}
	}
	if got.total < kills*writers {
		t.Errorf("only %d writes were acknowledged: the test did not write while it killed", got.total)
	}
	sink.Wait(t, "the follower ends with what is stored", 20*time.Second, func(r *storetest.Recorder) bool {
		seen := map[string]int{}
		for _, c := range r.Changes {
			var i int
			if c.Object != nil {
				_, _ = fmt.Sscan(c.Object.GetLabels()["i"], &i)
			}
			seen[c.Key.Name] = i
		}
		for name, want := range stored {
			if seen[name] != want {
				return false
			}
		}
		return true
	})
	stopFollow()
	t.Logf("%d lost of %d acknowledged writes over %d kills", lost, got.total, kills)
}

// writeUntil raises the numbers of this writer's own keys until ctx ends.
func writeUntil(ctx context.Context, s *Store, w int, got *acks) {
	for i := 1; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("w%d-%d", w, i%16)
		o := node(name, map[string]string{"i": fmt.Sprint(i)})
		for ctx.Err() == nil {
			_, err := s.Update(ctx, o)
			if err != nil { // not there yet, or the store is away
				_, err = s.Create(ctx, o)
			}
			if err == nil {
				got.mu.Lock()
				got.value[name] = i
				got.total++
				got.mu.Unlock()
				break
			}
		}
	}
}
