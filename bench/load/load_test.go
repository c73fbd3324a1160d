package load

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"testing"
	"time"
)

func TestProof(t *testing.T) {
	nonce, other := bytes.Repeat([]byte{1}, nonceBytes), bytes.Repeat([]byte{2}, nonceBytes)
	good := hello{Proof: hex.EncodeToString(proof("t", nonce, openSession)), Open: openSession}
	if !proves("t", nonce, good) {
		t.Error("the token does not prove itself")
	}
	stream := good
	stream.Open = openStream
	short := good
	short.Proof = good.Proof[:2]
	for _, c := range []struct {
		name  string
		token string
		nonce []byte
		h     hello
	}{
		{"another token", "u", nonce, good}, {"another challenge", "t", other, good}, {"another purpose", "t", nonce, stream},
		{"a part of it", "t", nonce, short}, {"nothing", "t", nonce, hello{Open: openSession}},
		{"no token at all", "", nonce, hello{Proof: hex.EncodeToString(proof("", nonce, openSession)), Open: openSession}},
	} {
		if proves(c.token, c.nonce, c.h) {
			t.Errorf("%s proves it too", c.name)
		}
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy([]byte("cpu  100 20 3 999 888 7 5 444 1 1\ncpu0 9 9 9 9 9 9 9 9 9 9\n"))
	if want := 1350 * time.Millisecond; err != nil || got != want {
		t.Errorf("%v, %v: want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu0 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"} {
		if d, err := parseBusy([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, d)
		}
	}
}

func TestPercentile(t *testing.T) {
	var l Latencies
	for i := range 1000 {
		l = append(l, time.Duration(i+1))
	}
	for p, want := range map[float64]time.Duration{0.5: 501, 0.9: 901, 0.99: 991, 0.999: 1000, 1: 1000} {
		if got := l.Percentile(p); got != want {
			t.Errorf("percentile %v: %d, want %d", p, got, want)
		}
	}
	if Latencies(nil).Percentile(0.5) != 0 {
		t.Error("of nothing")
	}
}

// What a stranger sends is read within its bounds, and proves nothing.
func FuzzHello(f *testing.F) {
	for _, g := range garbage() {
		f.Add(g)
	}
	nonce := make([]byte, nonceBytes)
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		line, err := readLine(in, maxHello)
		if len(line) > maxHello {
			t.Fatalf("a line of %d bytes", len(line))
		}
		if err != nil {
			return
		}
		h, err := parseHello(line)
		if err == nil && (h.Size > maxEcho || h.Open == openEcho && h.Size < 1) {
			t.Errorf("takes %+v", h)
		}
		if proves("a token that nobody guesses", nonce, h) {
			t.Errorf("%q proves it", line)
		}
	})
}
