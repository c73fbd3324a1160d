package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"weft/routing"
)

// TestPortTaken: who has the port of BGP is said, with the process and what to do: here this test's, and then the speaker of
// another node service.
func TestPortTaken(t *testing.T) {
	h, _ := lab(t, 1)
	refused := func(err error, says ...string) {
		t.Helper()
		for _, s := range append(says, "port 179", "address already in use") {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%v: want %q in it", err, s)
			}
		}
		t.Log(err)
	}
	var l net.Listener
	h.Do(t, func() (err error) {
		l, err = net.Listen("tcp", "0.0.0.0:179")
		return err
	})
	_, err := h.driver.Apply(t.Context(), plan())
	refused(err, fmt.Sprintf("process %d (%s", os.Getpid(), os.Args[0]), "has the port: stop it, or run `weft node --bgp=false`")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h.apply(t, plan())
	other := New(h.Open(t), slog.New(slog.DiscardHandler), options(t.TempDir()))
	defer other.Close()
	defer func() {
		if _, err := other.Apply(context.Background(), routing.Speaker{}); err != nil {
			t.Error(err)
		}
	}()
	_, err = other.Apply(t.Context(), plan())
	pid := h.speakerPID(t)
	refused(err, fmt.Sprintf("process %d (", pid), "--run-dir "+h.dir, fmt.Sprintf("end it with `kill %d`", pid))
}
