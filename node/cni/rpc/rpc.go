// Package rpc is what weft-cni and the node say to each other over the root-only Unix socket
// <run-dir>/cni.sock: one JSON Request, one JSON Response, then the connection closes. It is
// linked into weft-cni and therefore imports next to nothing.
package rpc

import "encoding/json"

// SocketName is the socket's file name in the node's run directory.
const SocketName = "cni.sock"

// MaxMessage bounds a request and a response, in bytes.
const MaxMessage = 1 << 20

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
