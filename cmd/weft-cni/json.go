package main

import (
	"encoding/json"
	"strings"

	"weft/node/cni/rpc"
)

// What is here does for plain JSON, which is what runtimes and the node write, the same as
// encoding/json, and leaves all else to it: going through a type by reflection for the first time
// costs a process that lives for one call more than the call.

// decodeConfig reads the fields of conf from the network configuration.
func decodeConfig(b []byte, conf *config) error {
	plain := true
	if json.Valid(b) && members(b, func(key string, value []byte) {
		for name, field := range map[string]*string{"cniVersion": &conf.CNIVersion, "name": &conf.Name, "socket": &conf.Socket} {
			switch {
			case key == name && plainString(value):
				*field = string(value[1 : len(value)-1])
			case strings.EqualFold(key, name):
				plain = false
			}
		}
	}) && plain {
		return nil
	}
	*conf = config{}
	return json.Unmarshal(b, conf)
}

// encodeRequest returns r as JSON.
func encodeRequest(r *rpc.Request) ([]byte, error) {
	fields := []struct{ name, value string }{{"command", r.Command}, {"containerID", r.ContainerID},
		{"netns", r.Netns}, {"ifName", r.IfName}, {"args", r.Args}, {"path", r.Path}}
	b := append(make([]byte, 0, len(r.Config)+512), '{')
	for _, f := range fields {
		if f.value == "" {
			continue
		}
		q := append(append([]byte{'"'}, f.value...), '"')
		if !plainString(q) {
			return json.Marshal(r)
		}
		b = append(append(b, '"'), f.name...)
		b = append(append(append(b, '"', ':'), q...), ',')
	}
	b = append(b, `"config":`...)
	return append(append(b, r.Config...), '}'), nil
}

// decodeResponse reads the node's answer.
func decodeResponse(b []byte, r *rpc.Response) error {
	n := 0
	if json.Valid(b) && members(b, func(key string, value []byte) {
		if n++; key == "result" {
			r.Result = value
		}
	}) && n == 1 && r.Result != nil {
		return nil
	}
	*r = rpc.Response{}
	return json.Unmarshal(b, r)
}

// plainString tells whether b is a JSON string of printable ASCII that stands for itself.
func plainString(b []byte) bool {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return false
	}
	for _, c := range b[1 : len(b)-1] {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// members calls f for each member of the object that b, which is valid JSON, is. It returns false
// when b is no object, or a key is not plain.
func members(b []byte, f func(key string, value []byte)) bool {
	i := space(b, 0)
	if b[i] != '{' {
		return false
	}
	for i = space(b, i+1); b[i] == '"'; i = space(b, i) {
		end := skip(b, i)
		key := b[i:end]
		if !plainString(key) {
			return false
		}
		i = space(b, space(b, end)+1) // over the colon
		end = skip(b, i)
		f(string(key[1:len(key)-1]), b[i:end])
		if i = space(b, end); b[i] == ',' {
			i = space(b, i+1)
		}
	}
	return true
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skip returns the end of the value that begins at b[i].
func skip(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case c == '{' || c == '[':
			depth++
			continue
		case c == '}' || c == ']':
			depth--
		case depth == 0: // a number or a word
			for i+1 < len(b) && !strings.ContainsRune(",}] \t\r\n", rune(b[i+1])) {
				i++
			}
		default:
			continue
		}
		if depth <= 0 {
			return i + 1
		}
	}
	return i
}
