package userspace

import (
	"io"
	"log/slog"
	"os"
	"regexp"

	"weft/internal/supervise"
)

// maxLog is how large the log may grow in bytes before it begins anew: nobody rotates it.
const maxLog = 1 << 20

func newLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(keyless{&supervise.BoundedLog{File: os.Stderr, Max: maxLog}}, nil))
}

// key is what a key could look like, in hex or base64: none is ever logged on purpose.
var key = regexp.MustCompile(`[0-9a-fA-F]{64}|[A-Za-z0-9+/]{43}=?`)

// keyless leaves out of a log what could be a key.
type keyless struct{ to io.Writer }

// Write implements io.Writer.
func (k keyless) Write(b []byte) (int, error) {
	_, err := k.to.Write(key.ReplaceAll(b, []byte("[key]")))
	return len(b), err
}
