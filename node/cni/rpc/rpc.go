// Package rpc is what weft-cni and the node say to each other over the root-only Unix socket
// <run-dir>/cni.sock: one JSON Request, after which the sender shuts its side down, then one JSON
// Response, then the connection closes. The file descriptor of the container's network namespace
// travels with the request (SCM_RIGHTS), so that the node need not see the runtime's paths. The
// package is linked into weft-cni and therefore imports next to nothing.
package rpc

import (
	"encoding/json"
	"fmt"
	"strings"
)

// SocketName is the socket's file name in the node's run directory.
const SocketName = "cni.sock"

// DefaultSocket is where weft-cni looks when the network configuration names no socket.
const DefaultSocket = "/run/weft/" + SocketName

// MaxMessage bounds a request and a response, in bytes.
const MaxMessage = 1 << 20

// The CNI commands that reach the node (CNI specification 1.1, section 2). VERSION is answered by
// weft-cni itself.
const (
	Add    = "ADD"
	Del    = "DEL"
	Check  = "CHECK"
	GC     = "GC"
	Status = "STATUS"
)

// Error codes of the CNI specification 1.1, section 5, and our own from 100 on.
const (
	CodeIncompatibleVersion = 1
	CodeUnsupportedField    = 2
	CodeUnknownContainer    = 3
	CodeInvalidEnvironment  = 4
	CodeIO                  = 5
	CodeDecoding            = 6
	CodeInvalidConfig       = 7
	CodeInvalidNetns        = 8
	CodeTryAgain            = 11
	CodeNotAvailable        = 50 // STATUS: cannot attach containers
	CodeLimited             = 51 // STATUS: as 50, and containers attached have limited connectivity
	CodeInterfaceExists     = 100
	CodeAlreadyAttached     = 101
	CodeCheckFailed         = 102
	CodeInternal            = 999
)

// Request is one CNI call, as the runtime made it (CNI specification 1.1, section 2).
type Request struct {
	Command     string          `json:"command"` // ADD, DEL, CHECK, GC, STATUS
	ContainerID string          `json:"containerID,omitempty"`
	Netns       string          `json:"netns,omitempty"`  // path
	IfName      string          `json:"ifName,omitempty"` // inside the container
	Args        string          `json:"args,omitempty"`   // CNI_ARGS
	Path        string          `json:"path,omitempty"`   // CNI_PATH
	Config      json.RawMessage `json:"config"`           // the network configuration from stdin
}

// Error is a CNI error object (CNI specification 1.1, section 5).
type Error struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

// Errorf returns an Error; the message is formatted as by fmt.Sprintf.
func Errorf(code uint, format string, a ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, a...)}
}

// Error prints message and details on one line.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// Response is the answer: exactly what the plugin prints, or an error object.
type Response struct {
	Result json.RawMessage `json:"result,omitempty"` // for ADD; nil for the others
	Error  *Error          `json:"error,omitempty"`
}

// DecodeRequest reads one Request and checks what every command needs of the environment (CNI
// specification 1.1, section 2). The error is the answer.
func DecodeRequest(b []byte) (*Request, *Error) {
	if len(b) > MaxMessage {
		return nil, Errorf(CodeIO, "the request is larger than %d bytes", MaxMessage)
	}
	var r Request
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, Errorf(CodeDecoding, "decode request: %v", err)
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return &r, nil
}

// Validate checks command, container ID and interface name, and that what the command needs is there.
func (r *Request) Validate() *Error {
	switch r.Command {
	case Add, Check, Del:
	case GC, Status:
		return nil
	default:
		return Errorf(CodeInvalidEnvironment, "CNI_COMMAND is %q: want ADD, DEL, CHECK, GC, STATUS or VERSION", r.Command)
	}
	var missing []string
	for _, v := range []struct{ name, value string }{
		{"CNI_CONTAINERID", r.ContainerID}, {"CNI_IFNAME", r.IfName}, {"CNI_NETNS", r.Netns},
	} {
		if v.value == "" && (v.name != "CNI_NETNS" || r.Command != Del) {
			missing = append(missing, v.name)
		}
	}
	if len(missing) > 0 {
		return Errorf(CodeInvalidEnvironment, "%s needs the environment variables %s", r.Command, strings.Join(missing, ", "))
	}
	if !ValidContainerID(r.ContainerID) {
		return Errorf(CodeInvalidEnvironment,
			"CNI_CONTAINERID is %q: want a letter or digit, then letters, digits, '_', '.' and '-', at most %d", r.ContainerID, maxContainerID)
	}
	if !ValidIfName(r.IfName) {
		return Errorf(CodeInvalidEnvironment, "CNI_IFNAME is %q: want 1 to 15 letters, digits, '_', '.' and '-', and not . or ..", r.IfName)
	}
	return nil
}

// maxContainerID keeps <container>@<interface>.json within a file name.
const maxContainerID = 128

// ValidContainerID tells whether s is a container ID as the specification has it, of bounded length.
func ValidContainerID(s string) bool {
	return s != "" && len(s) <= maxContainerID && alphanumeric(s[0]) && nameChars(s)
}

// ValidIfName tells whether s can name an interface and a file.
func ValidIfName(s string) bool {
	return s != "" && len(s) <= 15 && s != "." && s != ".." && nameChars(s)
}

// ValidNetworkName tells whether s is a network's name: as a container ID.
func ValidNetworkName(s string) bool { return ValidContainerID(s) }

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func nameChars(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}
