package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// NotifyContext returns a context that ends when the process is asked to end: ctrl-c, SIGTERM, or the
// terminal that goes away, unless it was started to outlive that (nohup(1)). A reader that goes away
// (SIGPIPE) does not end the process before it has cleaned up: see Writer.
func NotifyContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ends := []os.Signal{unix.SIGINT, unix.SIGTERM}
	if !signal.Ignored(unix.SIGHUP) {
		ends = append(ends, unix.SIGHUP)
	}
	// To be told of SIGPIPE turns it into an error of the write; nobody reads the channel.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, ends...)
	return ctx, func() {
		stop()
		signal.Stop(broken)
	}
}

// Writer calls fail when w cannot be written to: when the reader of a pipe has gone, say.
func Writer(w io.Writer, fail func(error)) io.Writer { return failing{w, fail} }

type failing struct {
	io.Writer
	fail func(error)
}

func (f failing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err != nil {
		err = fmt.Errorf("write the output: %w", err)
		f.fail(err)
	}
	return n, err
}
