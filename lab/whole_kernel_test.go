package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// TestWholeLab goes through what only a running lab can show.
func TestWholeLab(t *testing.T) {
	testkit.RequireRoot(t)
	l, _ := newLab(t, binaries.weft(t))
	start := time.Now()
	if err := l.Up(t.Context(), DefaultConfig(), false); err != nil {
		logNotReady(t, err)
		t.Fatal(err)
	}
	t.Logf("up took %v", time.Since(start).Round(time.Millisecond))
	if err := l.Up(t.Context(), DefaultConfig(), false); err == nil || !strings.Contains(err.Error(), "is up already") {
		t.Errorf("second up: got %v", err)
	}
	t.Run("nodes share nothing", func(t *testing.T) { checkNodesApart(t, l) })
	t.Run("pods", func(t *testing.T) { checkPods(t, l) })
	t.Run("a crash in pod add", func(t *testing.T) { checkPodCrash(t, l) })
	t.Run("strays die with the lab", func(t *testing.T) { checkStrays(t, l) })
}

func logNotReady(t *testing.T, err error) {
	var e *NotReadyError
	if errors.As(err, &e) {
		t.Logf("log of %s:\n%s", e.Node, strings.Join(e.Log, "\n"))
	}
}

// checkNodesApart compares the nodes' namespaces and what they see at the well-known paths.
func checkNodesApart(t *testing.T, l *Lab) {
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	compared := 0
	for _, n := range append([]NodeStatus{{Name: "this machine", PID: os.Getpid()}}, s.Nodes...) {
		for _, path := range []string{"ns/net", "ns/mnt", "root/run/weft", "root/run", "root/sys"} {
			id, err := inode(fmt.Sprintf("/proc/%d/%s", n.PID, path))
			if errors.Is(err, fs.ErrNotExist) && n.PID == os.Getpid() {
				continue // this machine runs no node
			}
			if err != nil {
				t.Errorf("%s: %v", n.Name, err)
				continue
			}
			key := fmt.Sprint(path, id)
			if other := seen[key]; other != "" {
				t.Errorf("%s and %s share %s", n.Name, other, path)
			}
			seen[key] = n.Name
			compared++
		}
	}
	t.Logf("%d paths of %d nodes and this machine compared", compared, len(s.Nodes))
	// A namespace that is made after the nodes started must be seen by them.
	late := l.PodNetns("late", "pod")
	if _, err := kernel.NewNamedNetns(late); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := kernel.DeleteNamedNetns(late); err != nil {
			t.Error(err)
		}
	}()
	for _, n := range s.Nodes {
		var st unix.Statfs_t
		path := fmt.Sprintf("/proc/%d/root%s", n.PID, kernel.NetnsPath(late))
		if err := unix.Statfs(path, &st); err != nil || st.Type != 0x6e736673 {
			t.Errorf("%s does not see a namespace made after its start: type %#x, %v", n.Name, st.Type, err)
		}
	}
}

const testPool = `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"default-ipv4-ippool"},
"spec":{"cidr":"10.244.0.0/16","blockSize":26,"vxlanMode":"Always"}}`

// checkPods attaches many pods at once and takes half of them away again.
func checkPods(t *testing.T, l *Lab) {
	cmd := exec.Command(l.binary, "apply", "-f", "-")
	cmd.Env = append(os.Environ(), "WEFT_ETCD_ENDPOINTS="+l.StoreEndpoint())
	cmd.Stdin = strings.NewReader(testPool)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apply a pool: %v\n%s", err, out)
	}
	const count = 32
	start := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner := map[string]string{}
	for i := range count {
		wg.Go(func() {
			name := fmt.Sprintf("p%d", i)
			res, err := l.AddPod(t.Context(), PodSpec{Node: fmt.Sprintf("n%d", i%3+1), Namespace: "many", Name: name})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, a := range resultAddresses(res) {
				if owner[a] != "" {
					t.Errorf("%s and %s both have %s", name, owner[a], a)
				}
				owner[a] = name
			}
		})
	}
	wg.Wait()
	t.Logf("%d pods attached at once in %v, %d addresses", count, time.Since(start).Round(time.Millisecond), len(owner))
	if len(owner) != count {
		t.Errorf("%d addresses for %d pods", len(owner), count)
	}
	for i := range count / 2 {
		wg.Go(func() {
			r, err := l.RemovePod(t.Context(), "many", fmt.Sprintf("p%d", i))
			if err != nil || !r.Found || r.Owed != nil {
				t.Errorf("remove p%d: %+v, %v", i, r, err)
			}
		})
	}
	wg.Wait()
	named, err := filepath.Glob(kernel.NetnsPath(l.PodNetns("many", "*")))
	if err != nil || len(named) != count/2 {
		t.Errorf("%d namespaces of pods are left, want %d (%v)", len(named), count/2, err)
	}
}

// checkPodCrash stops pod add at each of its steps; pod rm then removes what is there.
func checkPodCrash(t *testing.T, l *Lab) {
	defer func() { l.hook = nil }()
	for k := 1; ; k++ {
		steps := 0
		l.hook = func(string) error {
			if steps++; steps == k {
				return errInterrupted
			}
			return nil
		}
		_, err := l.AddPod(t.Context(), PodSpec{Node: "n1", Namespace: "half", Name: "p"})
		l.hook = nil
		if err != nil && !errors.Is(err, errInterrupted) {
			t.Fatalf("step %d: %v", k, err)
		}
		if r, rmErr := l.RemovePod(t.Context(), "half", "p"); rmErr != nil || !r.Found || r.Owed != nil {
			t.Errorf("step %d: remove: %+v, %v", k, r, rmErr)
		}
		if there, nsErr := kernel.NetnsExists(l.PodNetns("half", "p")); there || nsErr != nil {
			t.Errorf("step %d: the namespace is left (%v)", k, nsErr)
		}
		if err == nil {
			t.Logf("%d interruptions", k-1)
			return
		}
	}
}

// checkStrays starts a process in the lab as a user would and takes the lab down.
func checkStrays(t *testing.T, l *Lab) {
	cmd := exec.Command("ip", "netns", "exec", l.Netns("n1"), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	testkit.Eventually(t, 5*time.Second, "sleep runs in the node", func() bool {
		a, errA := inode(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		b, errB := inode(kernel.NetnsPath(l.Netns("n1")))
		return errA == nil && errB == nil && a == b
	})
	r, err := l.Down(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Three nodes, the store and the sleep.
	if r.Processes < 5 || r.Namespaces != 5+16 {
		t.Errorf("removed %+v, want 5 processes, and 5 namespaces of the underlay and 16 of pods", r)
	}
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the process outlived the lab")
		_ = cmd.Process.Kill()
	}
}
