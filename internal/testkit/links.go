package testkit

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
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
