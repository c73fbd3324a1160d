package rpc

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		r     Request
		code  uint
		words string
	}{
		{Request{Command: Add, ContainerID: "c", Netns: "/n", IfName: "eth0"}, 0, ""},
		{Request{Command: Del, ContainerID: "c", IfName: "eth0"}, 0, ""},
		{Request{Command: Status}, 0, ""},
		{Request{Command: GC}, 0, ""},
		{Request{Command: "NO"}, CodeInvalidEnvironment, "CNI_COMMAND"},
		{Request{}, CodeInvalidEnvironment, "CNI_COMMAND"},
		{Request{Command: Add, ContainerID: "c", IfName: "eth0"}, CodeInvalidEnvironment, "CNI_NETNS"},
		{Request{Command: Check}, CodeInvalidEnvironment, "CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS"},
		{Request{Command: Del, ContainerID: "../c", IfName: "eth0"}, CodeInvalidEnvironment, "CNI_CONTAINERID"},
		{Request{Command: Del, ContainerID: strings.Repeat("c", 129), IfName: "eth0"}, CodeInvalidEnvironment, "CNI_CONTAINERID"},
		{Request{Command: Del, ContainerID: "c", IfName: ".."}, CodeInvalidEnvironment, "CNI_IFNAME"},
		{Request{Command: Del, ContainerID: "c", IfName: "a/b"}, CodeInvalidEnvironment, "CNI_IFNAME"},
		{Request{Command: Del, ContainerID: "c", IfName: "sixteenletters16"}, CodeInvalidEnvironment, "CNI_IFNAME"},
	} {
		err := tc.r.Validate()
		if (err == nil) != (tc.code == 0) || err != nil && (err.Code != tc.code || !strings.Contains(err.Msg, tc.words)) {
			t.Errorf("%+v: got %+v, want code %d and %q", tc.r, err, tc.code, tc.words)
		}
	}
	if _, err := DecodeRequest(make([]byte, MaxMessage+1)); err == nil || err.Code != CodeIO {
		t.Errorf("too large a request: got %+v", err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"command":"ADD","containerID":"c","netns":"/n","ifName":"eth0","config":{"cniVersion":"1.1.0","name":"x"}}`))
	f.Add([]byte(`{"command":"STATUS","config":null}`))
	f.Add([]byte(`[{}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		if err != nil {
			if err.Code == 0 || err.Msg == "" {
				t.Errorf("an error without code or message: %+v", err)
			}
			return
		}
		if strings.ContainsAny(r.ContainerID+r.IfName, "/") && (r.Command == Add || r.Command == Del || r.Command == Check) {
			t.Errorf("accepted container %q, interface %q", r.ContainerID, r.IfName)
		}
		if _, jerr := json.Marshal(r); jerr != nil {
			t.Errorf("what was read cannot be written: %v", jerr)
		}
	})
}
