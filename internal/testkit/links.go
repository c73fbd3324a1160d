package testkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// linkInfo is the part of `ip -json -details link show` that the dumps print.
type linkInfo struct {
	Name  string   `json:"ifname"`
	MTU   int      `json:"mtu"`
	Flags []string `json:"flags"`
	Info  struct {
		Kind string `json:"info_kind"`
	} `json:"linkinfo"`
}

func (l linkInfo) String() string {
	state := "down"
	if slices.Contains(l.Flags, "UP") {
		state = "up"
	}
	kind := l.Info.Kind
	if kind == "" {
		kind = "hardware"
	}
	return fmt.Sprintf("%s %s mtu %d %s", l.Name, kind, l.MTU, state)
}

func links(t testing.TB, ns NS) []linkInfo {
	t.Helper()
	var all []linkInfo
	if err := json.Unmarshal([]byte(Run(t, ns, "ip", "-json", "-details", "link", "show")), &all); err != nil {
		t.Fatalf("read the output of ip link: %v", err)
	}
	return slices.DeleteFunc(all, func(l linkInfo) bool { return l.Name == "lo" || l.Name == "" })
}

// RenamesWhileUp tells whether the kernel renames an interface that is up (Linux 6.2).
func RenamesWhileUp(t testing.TB) bool {
	t.Helper()
	ns := NewNetns(t)
	Run(t, ns, "ip", "link", "add", "br8", "up", "type", "bridge")
	_, err := Try(t, ns, "ip", "link", "set", "br8", "name", "br9")
	return err == nil
}

// Rename renames an interface, also where the kernel renames only what is down and somebody sets it up
// again at once.
func Rename(t testing.TB, ns NS, from, to string) {
	t.Helper()
	h := ns.Open(t)
	l, ok, err := h.LinkByName(t.Context(), from)
	if err == nil && ok {
		if err = h.LinkRename(t.Context(), l.Index, to); errors.Is(err, unix.EBUSY) {
			err = h.LinkRenameDown(t.Context(), l.Index, to, false)
		}
	}
	if err != nil || !ok {
		t.Fatalf("rename interface %s to %s: found %v, %v", from, to, ok, err)
	}
}
