package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/node/cni/rpc"
)

// call is one start of the plugin: what the runtime hands in, and where the answer goes.
type call struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	socket         string // where the node listens unless the configuration says otherwise
}

// config is the part of the network configuration that the plugin itself needs; the node reads the
// rest.
type config struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Socket     string `json:"socket"`
}

// run answers one CNI call and returns the exit code: 0, or 1 after an error object on stdout.
func run(c call) int {
	command := c.getenv("CNI_COMMAND")
	switch command {
	case "":
		_, _ = io.WriteString(c.stderr, "weft-cni is a CNI plugin, started by a container runtime with CNI_COMMAND set.\n"+
			"CNI specification versions: "+strings.Join(rpc.Versions(), ", ")+"\n")
		return 1
	case "VERSION":
		return c.version()
	}
	var conf config
	out, err := c.exchange(command, &conf)
	if err != nil {
		if err.CNIVersion == "" {
			err.CNIVersion = answerVersion(conf.CNIVersion)
		}
		if command == rpc.Del {
			err.Msg, err.Details = notTakenForGone.Replace(err.Msg), notTakenForGone.Replace(err.Details)
		}
		out, _ = json.Marshal(err) // strings and a number: cannot fail
	}
	if len(out) > 0 {
		if _, werr := c.stdout.Write(append(out, '\n')); werr != nil && err == nil {
			return 1
		}
	}
	if err != nil {
		return 1
	}
	return 0
}

// notTakenForGone keeps these words out of the errors of DEL: containerd takes a DEL whose error has them for one that
// succeeded (go-cni, libcni.Remove), and does not repeat it. After a reboot the node's socket is not there at first, and
// pods' addresses would stay theirs.
var notTakenForGone = strings.NewReplacer("no such file or directory", "it is not there", "not found", "absent")

// answerVersion is the version that an error object carries: the configuration's if it is one.
func answerVersion(v string) string {
	if rpc.CheckVersion(v, "") != nil {
		return rpc.Current
	}
	return v
}

// version answers VERSION, which needs no node (CNI specification 1.1, section 2, VERSION).
func (c call) version() int {
	var conf config
	if b, err := io.ReadAll(io.LimitReader(c.stdin, rpc.MaxMessage)); err == nil {
		_ = json.Unmarshal(b, &conf) // old runtimes send nothing here
	}
	out, _ := json.Marshal(struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{answerVersion(conf.CNIVersion), rpc.Versions()})
	if _, err := c.stdout.Write(append(out, '\n')); err != nil {
		return 1
	}
	return 0
}

// exchange asks the node, and returns what to print.
func (c call) exchange(command string, conf *config) ([]byte, *rpc.Error) {
	req := rpc.Request{
		Command: command, ContainerID: c.getenv("CNI_CONTAINERID"), Netns: c.getenv("CNI_NETNS"),
		IfName: c.getenv("CNI_IFNAME"), Args: c.getenv("CNI_ARGS"), Path: c.getenv("CNI_PATH"),
	}
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if err := c.readConfig(command, &req, conf); err != nil {
		return nil, err
	}
	b, jerr := encodeRequest(&req)
	if jerr != nil {
		return nil, rpc.Errorf(rpc.CodeDecoding, "encode request: %v", jerr)
	}
	netns, err := openNetns(&req)
	if err != nil {
		return nil, err
	}
	if netns >= 0 {
		defer unix.Close(netns)
	}
	answer, ioerr := ask(conf.Socket, b, netns, timeout(command))
	if ioerr != nil {
		return nil, unreachable(command, conf.Socket, ioerr)
	}
	var resp rpc.Response
	if jerr := decodeResponse(answer, &resp); jerr != nil {
		return nil, unreachable(command, conf.Socket, errors.New("it closed the connection without a whole answer"))
	}
	if resp.Error != nil {
		return nil, resp.Error
	}
	return resp.Result, nil
}

// readConfig reads the network configuration from stdin.
func (c call) readConfig(command string, req *rpc.Request, conf *config) *rpc.Error {
	in, err := io.ReadAll(io.LimitReader(c.stdin, rpc.MaxMessage/2+1))
	if err != nil {
		return rpc.Errorf(rpc.CodeIO, "read network configuration from stdin: %v", err)
	}
	if len(in) > rpc.MaxMessage/2 {
		return rpc.Errorf(rpc.CodeIO, "the network configuration on stdin is larger than %d bytes", rpc.MaxMessage/2)
	}
	if err := decodeConfig(in, conf); err != nil {
		return rpc.Errorf(rpc.CodeDecoding, "decode network configuration from stdin: %v", err)
	}
	if !rpc.ValidNetworkName(conf.Name) {
		return rpc.Errorf(rpc.CodeInvalidConfig,
			"network configuration: name is %q: want a letter or digit, then letters, digits, '_', '.' and '-'", conf.Name)
	}
	if conf.Socket == "" {
		conf.Socket = c.socket
	}
	if conf.Socket[0] != '/' {
		return rpc.Errorf(rpc.CodeInvalidConfig, "network configuration: socket is %q: want an absolute path such as %s", conf.Socket, rpc.DefaultSocket)
	}
	req.Config = in
	return rpc.CheckVersion(conf.CNIVersion, command)
}

// openNetns opens the container's network namespace, to be sent to the node, and returns its
// descriptor, or -1 where there is none: at DEL it may be gone.
func openNetns(r *rpc.Request) (int, *rpc.Error) {
	if r.Netns == "" || r.Command != rpc.Add && r.Command != rpc.Check && r.Command != rpc.Del {
		return -1, nil
	}
	for {
		fd, err := unix.Open(r.Netns, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // a FIFO must not hold us
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil:
			return fd, nil
		case r.Command == rpc.Del:
			return -1, nil
		}
		return -1, rpc.Errorf(rpc.CodeInvalidNetns, "open the container's network namespace (CNI_NETNS is %s): %v", r.Netns, err)
	}
}

// timeout is how long the node may take before the plugin gives up; the node bounds itself
// earlier, so that its own reason gets through.
func timeout(command string) time.Duration {
	if command == rpc.Status {
		return 10 * time.Second
	}
	return 75 * time.Second
}

// unreachable says that the node did not answer. Every code asks the runtime to try again: at DEL
// as well, since only the node can give the container's addresses back.
func unreachable(command, socket string, err error) *rpc.Error {
	code := uint(rpc.CodeTryAgain)
	if command == rpc.Status {
		code = rpc.CodeNotAvailable
	}
	e := rpc.Errorf(code, "ask the node service at %s: %v; is `weft node` running?", socket, err)
	if command == rpc.Del {
		e.Details = "nothing is released yet: the runtime has to repeat DEL"
	}
	return e
}
