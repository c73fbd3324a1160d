package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// process runs a part until it ends, or ctx does. It is a process group of its own: what a terminal sends at Ctrl-C comes
// from here alone, once, and it is told to end when this process dies.
func (s *Suite) process(ctx context.Context, argv []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	last := &tail{w: s.Log}
	cmd.Stdout, cmd.Stderr = s.Out, last
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = s.Grace
	begin := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return fmt.Errorf("%w; it did not end within %v of being told to and was killed: weft lab down takes away what it left", context.Cause(ctx), s.Grace)
	case ctx.Err() != nil:
		return fmt.Errorf("%w, after %v", context.Cause(ctx), time.Since(begin).Round(time.Second))
	case last.line() != "":
		return fmt.Errorf("%w: %s", err, last.line())
	}
	return err
}

// tail passes on what is written and keeps the end of it.
type tail struct {
	w   io.Writer
	end []byte
}

const tailBytes = 2000

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	t.end = t.end[max(0, len(t.end)-tailBytes):]
	return t.w.Write(p)
}

// line is the last line that says something.
func (t *tail) line() string {
	lines := strings.FieldsFunc(string(bytes.ToValidUTF8(t.end, nil)), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		if l := strings.TrimSpace(lines[i]); l != "" {
			return l
		}
	}
	return ""
}
