package cli

import (
	"context"
	"flag"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	v3 "weft/api/v3"
	"weft/node/datastore/etcd"
	"weft/node/ipam"
	"weft/node/status"
)

var update = flag.Bool("update", false, "rewrite golden files, scripts and docs/commands.md")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"weft": weft, pluginName: weft, completeName: weft,
	})
}

func weft() {
	root := Root("v0.0.0-test")
	AsNamed(root, os.Args)
	os.Exit(Execute(context.Background(), root))
}

// TestScripts runs every command as a process of its own, on a real store.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		WorkdirRoot:         t.TempDir(), // else a run that fails leaves a directory behind
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			run := filepath.Join(env.WorkDir, "run")
			env.Setenv("RUN", run)
			env.Setenv(runDirEnv, run)
			s := &sandbox{}
			env.Values[sandboxKey{}] = s
			env.Defer(func() { s.close(env.T()) })
			return os.Mkdir(run, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"store":    scriptStore,
			"node":     scriptNode,
			"seed":     scriptSeed,
			"await":    scriptAwait,
			"assign":   scriptAssign,
			"envsubst": scriptEnvsubst,
		},
	})
}

type sandboxKey struct{}

// sandbox is what runs beside the commands of one script.
type sandbox struct {
	store *etcd.Server
	node  *http.Server
	done  chan error // of node
}

func (s *sandbox) close(t testscript.T) {
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			t.Fatal("stop the store:", err)
		}
	}
	if s.node != nil {
		s.node.Close()
		<-s.done
	}
}

func sandboxOf(ts *testscript.TestScript) *sandbox { return ts.Value(sandboxKey{}).(*sandbox) }

// scriptStore is "store start" and "store stop": the embedded etcd on $RUN/etcd.sock. A second start
// finds the data of the first.
func scriptStore(ts *testscript.TestScript, neg bool, args []string) {
	s := sandboxOf(ts)
	switch {
	case !neg && len(args) == 1 && args[0] == "start":
		cfg := etcd.ServerConfig{
			DataDir: filepath.Join(ts.Getenv("WORK"), "data"), Socket: filepath.Join(ts.Getenv("RUN"), etcdSocketName),
			NoFsync: true, Tick: 10 * time.Millisecond,
		}
		server, err := etcd.StartServer(context.Background(), cfg)
		// A command that another script starts holds a copy of the lock's file between fork and exec.
		for range 40 {
			if err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
			server, err = etcd.StartServer(context.Background(), cfg)
		}
		ts.Check(err)
		s.store = server
	case !neg && len(args) == 1 && args[0] == "stop":
		ts.Check(s.store.Close())
		s.store = nil
	default:
		ts.Fatalf("usage: store start|stop")
	}
}

// scriptNode is "node DIR": answers on the node's socket with the files of DIR.
func scriptNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: node DIR")
	}
	l, err := net.Listen("unix", filepath.Join(ts.Getenv("RUN"), status.SocketName))
	ts.Check(err)
	s := sandboxOf(ts)
	s.node = &http.Server{Handler: http.FileServer(http.Dir(ts.MkAbs(args[0]))), ReadHeaderTimeout: time.Second}
	s.done = make(chan error, 1)
	go func() { s.done <- s.node.Serve(l) }()
}

// scriptSeed is "seed FILE": writes resources past the commands, as a node does.
func scriptSeed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: seed FILE")
	}
	objects, err := v3.Decode([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	store := openStore(ts)
	defer store.Close()
	for _, o := range objects {
		_, err := store.Create(context.Background(), o)
		ts.Check(err)
	}
}

// scriptAssign is "assign NODE NAMESPACE/POD VARIABLE": takes an address for a pod as the node does,
// two hours ago, and puts it into the variable.
func scriptAssign(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: assign NODE NAMESPACE/POD VARIABLE")
	}
	ctx := context.Background()
	store := openStore(ts)
	defer store.Close()
	a := ipam.New(store, args[0], ipam.Options{Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }})
	defer a.Close()
	namespace, pod, _ := strings.Cut(args[1], "/")
	got, err := a.Assign(ctx, ipam.Request{HandleID: "k8s-pod-network." + pod, Namespace: namespace, Pod: pod})
	ts.Check(err)
	ts.Setenv(args[2], got.Addresses[0].Addr.String())
}

func openStore(ts *testscript.TestScript) *etcd.Store {
	store, err := etcd.Open(context.Background(), etcd.Config{Endpoints: []string{"unix://" + filepath.Join(ts.Getenv("RUN"), etcdSocketName)}})
	ts.Check(err)
	return store
}

// scriptEnvsubst is "envsubst FILE": replaces ${VARIABLE} in a file.
func scriptEnvsubst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: envsubst FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

// scriptAwait is "await FILE REGEXP": waits until a background command has written it.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE REGEXP")
	}
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var data []byte
	for range 400 {
		data, _ = os.ReadFile(ts.MkAbs(args[0]))
		if want.Match(data) {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("%s does not get to match %s within 10 s:\n%s", args[0], args[1], data)
}

// Every example in the help of a command is run by a script, word for word.
func TestExamplesAreRun(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	ran := map[string]bool{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			line = strings.TrimPrefix(strings.TrimSpace(line), "! ")
			if cmd, ok := strings.CutPrefix(line, "exec weft "); ok {
				ran["weft "+strings.TrimSpace(cmd)] = true
			}
			// In the background, a shell keeps the output.
			if cmd, ok := strings.CutPrefix(line, "exec sh -c 'exec weft "); ok {
				ran["weft "+strings.TrimSuffix(cmd, "'")] = true
				cmd, _, _ = strings.Cut(cmd, " >")
				ran["weft "+cmd] = true
			}
		}
	}
	examples := 0
	for _, c := range commands(Root("test")) {
		if !c.Runnable() || c.Hidden || c.Name() == "help" {
			continue
		}
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s lacks a Short, a Long or an Example", c.CommandPath())
		}
		for _, e := range strings.Split(unindent(c.Example), "\n") {
			examples++
			if !ran[strings.ReplaceAll(e, `"`, `'`)] && !ran[e] {
				t.Errorf("%s: no script runs its example %q", c.CommandPath(), e)
			}
		}
	}
	if examples < 20 {
		t.Errorf("only %d examples found", examples)
	}
}
