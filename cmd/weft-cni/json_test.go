package main

import (
	"encoding/json"
	"reflect"
	"testing"

	"weft/node/cni/rpc"
)

// FuzzPlainJSON: what reads and writes JSON here does as encoding/json does.
func FuzzPlainJSON(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"1.1.0","name":"x","socket":"/s"}`, ` { "name" : "a" , "ipam":{"name":"b","x":[1,"]}",{}]},"n":-1.5e3,"t":true } `,
		`{"Name":"x","name":"y"}`, `{"n\u0061me":"x"}`, `{"name":"\u0061"}`, `{"name":null}`, `{"name":1}`, `{"name":"é"}`, `[]`, `{`, ``, `null`, `""`,
		`{"result":{"ips":[]}}`, `{"result":null}`, `{"error":{"code":7}}`, `{"result":1,"error":{"code":7}}`, `{"RESULT":1}`, `{}`, `{"result":1} x`,
		`{"name":"<"}`, `{"name":"a"}{"name":"b"}`, `{"a":{"b":"\\\""},"name":"c"}`,
	} {
		f.Add([]byte(s), "ADD", "K8S_POD_NAME=p")
	}
	f.Fuzz(func(t *testing.T, b []byte, command, args string) {
		var got, want config
		gerr, werr := decodeConfig(b, &got), json.Unmarshal(b, &want)
		if (gerr == nil) != (werr == nil) || werr == nil && got != want {
			t.Errorf("configuration %q: got %v, %v, want %v, %v", b, got, gerr, want, werr)
		}
		var gr, wr rpc.Response
		gerr, werr = decodeResponse(b, &gr), json.Unmarshal(b, &wr)
		if (gerr == nil) != (werr == nil) || werr == nil && !reflect.DeepEqual(gr, wr) {
			t.Errorf("answer %q: got %v, %v, want %v, %v", b, gr, gerr, wr, werr)
		}
		if !json.Valid(b) {
			return
		}
		req := rpc.Request{Command: command, ContainerID: "c", Args: args, Config: b}
		enc, gerr := encodeRequest(&req)
		wenc, werr := json.Marshal(&req)
		if gerr != nil || werr != nil {
			t.Fatal(gerr, werr)
		}
		var back, wback rpc.Request
		if err := json.Unmarshal(enc, &back); err != nil {
			t.Fatalf("request %q is %q: %v", args, enc, err)
		}
		if err := json.Unmarshal(wenc, &wback); err != nil {
			t.Fatal(err)
		}
		back.Config, wback.Config = nil, nil // one is as it was written, the other compact
		if !reflect.DeepEqual(back, wback) {
			t.Errorf("request: got %q, want %q", enc, wenc)
		}
	})
}
