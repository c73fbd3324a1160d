package load

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"weft/bench/result"
)

const (
	greeting   = "weft-bench/1 " // and the challenge in hex
	nonceBytes = 16
	keyBytes   = 16
	// maxLine bounds a line of JSON in bytes, and maxHello one of somebody who has not proved anything yet.
	maxLine  = 64 << 10
	maxHello = 512
	// helloTime is how long a connection may take to prove that it knows the token.
	helloTime = 5 * time.Second
	// takeTime is how long a stream waits for others of its session to end, where there are too many.
	takeTime = time.Second
)

// What a connection is for.
const (
	openSession = "session"
	openStream  = "stream" // the server counts what it reads
	openEcho    = "echo"   // the server sends back what it reads, Size bytes at a time
)

// hello is what a client answers to the challenge.
type hello struct {
	Proof   string `json:"proof"`
	Open    string `json:"open"`
	Session string `json:"session,omitempty"` // key, in hex
	Size    int    `json:"size,omitempty"`    // bytes
}

// welcome is what the server answers to a good hello.
type welcome struct {
	Session string          `json:"session,omitempty"` // key, in hex
	Machine *result.Machine `json:"machine,omitempty"`
	Boot    string          `json:"boot,omitempty"` // the same at both ends: they are one machine
}

// request is a line of a session.
type request struct {
	Do     string          `json:"do"`
	Settle time.Duration   `json:"settle,omitempty"`
	Time   time.Duration   `json:"time,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"` // of doSetup
}

// What a request asks for.
const (
	doCount = "count" // after Settle count for Time what arrives, and what the processors do
	doSetup = "setup" // Server.Setup
)

// answer is what a request gets.
type answer struct {
	Error string          `json:"error,omitempty"`
	Count *counted        `json:"count,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// counted is what arrived at a session.
type counted struct {
	Bytes   uint64        `json:"bytes"`   // of all streams
	Packets uint64        `json:"packets"` // of UDP
	Time    time.Duration `json:"time"`    // in which it did
	Busy    time.Duration `json:"busy"`    // of this machine's processors, see busyTime
}

// proof shows to whoever has the token that its sender has it too.
func proof(token string, nonce []byte, open string) []byte {
	m := hmac.New(sha256.New, []byte(token))
	m.Write(nonce)
	m.Write([]byte(open))
	return m.Sum(nil)
}

// proves compares in a time that says nothing about how much of the proof is right.
func proves(token string, nonce []byte, h hello) bool {
	got, err := hex.DecodeString(h.Proof)
	return err == nil && token != "" && hmac.Equal(got, proof(token, nonce, h.Open))
}

func readGreeting(in *bufio.Reader) ([]byte, error) {
	line, err := readLine(in, maxHello)
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(string(line), greeting)
	nonce, err := hex.DecodeString(strings.TrimSpace(text))
	if !ok || err != nil || len(nonce) != nonceBytes {
		return nil, fmt.Errorf("it greets with %.40q: want weft bench serve of this release", line)
	}
	return nonce, nil
}

// parseHello reads what anybody may have sent.
func parseHello(line []byte) (hello, error) {
	var h hello
	if err := json.Unmarshal(line, &h); err != nil {
		return h, err
	}
	switch {
	case h.Open != openSession && h.Open != openStream && h.Open != openEcho:
		return h, errors.New("asks for what there is not")
	case h.Open == openEcho && (h.Size < 1 || h.Size > maxEcho):
		return h, fmt.Errorf("echo of %d bytes: want 1 to %d", h.Size, maxEcho)
	}
	return h, nil
}

const maxEcho = 64 << 10

func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		b, err := in.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if b == '\n' {
			return line, nil
		}
		if line = append(line, b); len(line) > limit {
			return nil, fmt.Errorf("a line of more than %d bytes", limit)
		}
	}
}

func readJSON(in *bufio.Reader, limit int, into any) error {
	line, err := readLine(in, limit)
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}

func writeJSON(c net.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}
