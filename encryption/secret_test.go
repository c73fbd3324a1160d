package encryption

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestPrivateKeyNeverShows(t *testing.T) {
	var random [32]byte
	for i := range random {
		random[i] = byte(i + 65)
	}
	k, err := NewPrivateKey(random)
	if err != nil {
		t.Fatal(err)
	}
	raw := k.Bytes()
	var out bytes.Buffer
	d := Device{Name: "weft-wg", Key: k}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+"\n"+verb+"\n"+verb+"\n", k, &k, d)
	}
	j, err := json.Marshal(map[string]any{"key": k, "device": d})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", k, "device", d, "error", fmt.Errorf("with %v", k))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "key", k, "device", d)
	shows := func(text string) bool {
		for _, s := range []string{string(raw[:8]), hex.EncodeToString(raw[:8]), base64.StdEncoding.EncodeToString(raw[:6]), fmt.Sprint(raw[:4])[1:], strings.ToUpper(hex.EncodeToString(raw[:8]))} {
			if strings.Contains(text, strings.TrimSuffix(s, "]")) {
				return true
			}
		}
		return false
	}
	if shows(out.String()) {
		t.Errorf("the key shows in:\n%s", out.String())
	}
	if !strings.Contains(out.String(), redacted) {
		t.Error("nothing says that there was a key")
	}
	for _, control := range []string{string(raw[:]), hex.EncodeToString(raw[:]), base64.StdEncoding.EncodeToString(raw[:]), fmt.Sprint(raw)} {
		if !shows(control) {
			t.Errorf("the test does not see the key in %q", control)
		}
	}
	if _, err := NewPrivateKey([32]byte{}); err == nil {
		t.Error("zero bytes are taken for a key")
	}
}

// Alice's keys of RFC 7748, section 6.1.
func TestPublicKey(t *testing.T) {
	private, err := hex.DecodeString(alicePrivate)
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewPrivateKey([32]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	public, err := k.Public()
	if got := hex.EncodeToString(public[:]); err != nil || got != alicePublic {
		t.Errorf("public key %s, %v; want %s", got, err, alicePublic)
	}
}

const (
	alicePrivate = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
	alicePublic  = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
)
