package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/node/cni/rpc"
)

// nowhere is where no node listens, whatever runs on this machine.
const nowhere = "/proc/no-weft-node-here"

// start runs the plugin in this process with an environment and a standard input.
func start(env map[string]string, stdin string) (code int, out map[string]any, raw string) {
	var stdout, stderr bytes.Buffer
	code = run(call{getenv: func(k string) string { return env[k] }, stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr,
		socket: nowhere})
	_ = json.Unmarshal(stdout.Bytes(), &out)
	return code, out, stdout.String()
}

func environment(command string) map[string]string {
	return map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": os.DevNull, "CNI_PATH": "/opt/cni/bin"}
}

func TestVersion(t *testing.T) {
	for _, stdin := range []string{`{"cniVersion":"1.0.0"}`, ``, `{`} {
		code, out, raw := start(map[string]string{"CNI_COMMAND": "VERSION"}, stdin)
		versions, _ := out["supportedVersions"].([]any)
		if code != 0 || len(versions) != 5 || versions[4] != "1.1.0" {
			t.Errorf("VERSION with %q: got %d %s", stdin, code, raw)
		}
	}
}

// Whatever comes in, the answer is an error object with code and message, of the right version.
func TestErrorObjects(t *testing.T) {
	conf := `{"cniVersion":"1.0.0","name":"x","socket":"` + nowhere + `"}`
	status := `{"cniVersion":"1.1.0","name":"x","socket":"` + nowhere + `"}`
	without := func(command, key string) map[string]string {
		e := environment(command)
		delete(e, key)
		return e
	}
	for _, tc := range []struct {
		name, stdin string
		env         map[string]string
		code        float64
		words       string
	}{
		{"no stdin", "", environment("ADD"), rpc.CodeDecoding, "stdin"},
		{"no JSON", "{", environment("ADD"), rpc.CodeDecoding, "stdin"},
		{"a list", "[]", environment("DEL"), rpc.CodeDecoding, "stdin"},
		{"no name", `{"cniVersion":"1.0.0"}`, environment("ADD"), rpc.CodeInvalidConfig, "name"},
		{"bad name", `{"cniVersion":"1.0.0","name":"a/b"}`, environment("ADD"), rpc.CodeInvalidConfig, "name"},
		{"relative socket", `{"cniVersion":"1.0.0","name":"a","socket":"x"}`, environment("ADD"), rpc.CodeInvalidConfig, "socket"},
		{"unknown version", `{"cniVersion":"3.0.0","name":"a"}`, environment("ADD"), rpc.CodeIncompatibleVersion, "3.0.0"},
		{"no container", conf, without("ADD", "CNI_CONTAINERID"), rpc.CodeInvalidEnvironment, "CNI_CONTAINERID"},
		{"no netns", conf, without("ADD", "CNI_NETNS"), rpc.CodeInvalidEnvironment, "CNI_NETNS"},
		{"unknown command", conf, environment("MOVE"), rpc.CodeInvalidEnvironment, "MOVE"},
		{"huge", `{"cniVersion":"1.0.0","name":"` + strings.Repeat("a", rpc.MaxMessage) + `"}`, environment("ADD"), rpc.CodeIO, "larger"},
		{"no node at ADD", conf, environment("ADD"), rpc.CodeTryAgain, "is `weft node` running?"},
		{"no node at CHECK", conf, environment("CHECK"), rpc.CodeTryAgain, nowhere},
		{"no node at DEL", conf, environment("DEL"), rpc.CodeTryAgain, "is `weft node` running?"},
		{"no node at STATUS", status, environment("STATUS"), rpc.CodeNotAvailable, "is `weft node` running?"},
		{"no node at GC", status, environment("GC"), rpc.CodeTryAgain, nowhere},
		{"long socket", `{"cniVersion":"1.0.0","name":"a","socket":"/` + strings.Repeat("s", 120) + `"}`, environment("DEL"), rpc.CodeTryAgain, "107"},
	} {
		code, out, raw := start(tc.env, tc.stdin)
		msg, _ := out["msg"].(string)
		if code != 1 || out["code"] != tc.code || !strings.Contains(msg, tc.words) || out["cniVersion"] == "" || out["cniVersion"] == nil {
			t.Errorf("%s: got exit code %d, %.300s; want code %v and %q", tc.name, code, raw, tc.code, tc.words)
		}
	}
	socket, _ := answerer(t, `{"error":{"code":11,"msg":"block not found","details":"open x: no such file or directory"}}`)
	for _, at := range []string{nowhere, socket} {
		code, out, raw := start(environment("DEL"), `{"cniVersion":"1.0.0","name":"x","socket":"`+at+`"}`)
		msg := fmt.Sprint(out["msg"], out["details"])
		if code != 1 || strings.Contains(msg, "not found") || strings.Contains(msg, "no such file or directory") {
			t.Errorf("DEL failed by %s: containerd takes it for done", raw)
		}
	}
	gone := environment("ADD")
	gone["CNI_NETNS"] = "/run/netns/not-there"
	if _, out, raw := start(gone, conf); out["code"] != float64(rpc.CodeInvalidNetns) {
		t.Errorf("namespace that is gone: got %s", raw)
	}
}

// answerer accepts one connection, keeps what came, and answers.
func answerer(t *testing.T, answer string) (socket string, got func() (rpc.Request, int)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-cni-plugin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var req rpc.Request
	fds := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer l.Close()
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		var b []byte
		buf, oob := make([]byte, 4096), make([]byte, 64)
		for {
			n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
			if msgs, _ := unix.ParseSocketControlMessage(oob[:oobn]); len(msgs) > 0 {
				rights, _ := unix.ParseUnixRights(&msgs[0])
				for _, fd := range rights {
					fds++
					unix.Close(fd)
				}
			}
			b = append(b, buf[:n]...)
			if err != nil || n == 0 {
				break
			}
		}
		_ = json.Unmarshal(b, &req)
		_, _ = io.WriteString(c, answer)
	}()
	return socket, func() (rpc.Request, int) {
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatal("the plugin did not ask")
		}
		return req, fds
	}
}

func TestExchange(t *testing.T) {
	socket, got := answerer(t, `{"result":{"cniVersion":"1.0.0","ips":[]}}`)
	env := environment("ADD")
	env["CNI_ARGS"] = "K8S_POD_NAME=p"
	conf := `{"cniVersion":"1.0.0","name":"x","socket":"` + socket + `","pad":"` + strings.Repeat("p", 200_000) + `"}`
	code, out, raw := start(env, conf)
	if code != 0 || out["cniVersion"] != "1.0.0" {
		t.Errorf("got %d, %s", code, raw)
	}
	req, fds := got()
	if req.Command != "ADD" || req.ContainerID != "c1" || req.Args != "K8S_POD_NAME=p" || string(req.Config) != conf || fds != 1 {
		t.Errorf("the node got %.100v and %d descriptors", req, fds)
	}
	socket, _ = answerer(t, `{"error":{"cniVersion":"1.0.0","code":7,"msg":"m","details":"d"}}`)
	if code, out, raw := start(environment("DEL"), `{"cniVersion":"1.0.0","name":"x","socket":"`+socket+`"}`); code != 1 || out["code"] != 7.0 || out["details"] != "d" {
		t.Errorf("got %d, %s", code, raw)
	}
	for _, broken := range []string{"", "{", `{"result"`} {
		socket, _ = answerer(t, broken)
		if code, out, raw := start(environment("DEL"), `{"cniVersion":"1.0.0","name":"x","socket":"`+socket+`"}`); code != 1 || out["code"] != float64(rpc.CodeTryAgain) {
			t.Errorf("answer %q: got %d, %s", broken, code, raw)
		}
	}
}

// The plugin is started for every pod: what it links is a list that is kept short.
func TestLinksNextToNothing(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "weft/cmd/weft-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	if want := []string{"golang.org/x/sys/unix", "weft/cmd/weft-cni", "weft/node/cni/rpc"}; !slices.Equal(got, want) {
		t.Errorf("weft-cni links %v, want %v: every further package makes every pod start later", got, want)
	}
	std := exec.Command("go", "list", "-deps", "weft/cmd/weft-cni")
	std.Env = cmd.Env
	all, err := std.CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, all)
	}
	for _, p := range strings.Fields(string(all)) {
		if p == "net" || p == "net/http" || p == "crypto/tls" || p == "regexp" || p == "os/exec" {
			t.Errorf("weft-cni links %s", p)
		}
	}
	bin := filepath.Join(t.TempDir(), "weft-cni")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "weft/cmd/weft-cni")
	build.Env = cmd.Env
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	st, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("weft-cni, stripped: %.1f MB, %d packages of which %d are not Go's own", float64(st.Size())/1e6, len(strings.Fields(string(all))), len(got))
	if st.Size() > 4e6 {
		t.Errorf("weft-cni has %d bytes, want at most 4 MB", st.Size())
	}
}

func FuzzStdin(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"x"}`), "ADD", "c1", "K8S_POD_NAME=p")
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"x","cni.dev/valid-attachments":[]}`), "GC", "", "")
	f.Add([]byte(`{"cniVersion":{"a":[`), "DEL", "c", ";=;")
	f.Add([]byte("\xff\x00"), "STATUS", "", "")
	f.Add([]byte(`{}`), "VERSION", "", "")
	f.Fuzz(func(t *testing.T, stdin []byte, command, container, args string) {
		env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0",
			"CNI_NETNS": os.DevNull, "CNI_ARGS": args}
		var stdout bytes.Buffer
		code := run(call{getenv: func(k string) string { return env[k] }, stdin: bytes.NewReader(stdin), stdout: &stdout, stderr: io.Discard,
			socket: nowhere})
		if command == "" || code == 0 && command == "VERSION" {
			return
		}
		var e rpc.Error
		if err := json.Unmarshal(stdout.Bytes(), &e); err != nil || code != 1 || e.Code == 0 || e.Msg == "" || e.CNIVersion == "" {
			t.Errorf("%s with %q: exit code %d, %q: want an error object", command, stdin, code, stdout.String())
		}
	})
}
