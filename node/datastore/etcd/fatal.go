package etcd

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// fatalHook ends the goroutine that met an error etcd cannot go on after, instead of the process:
// the node keeps the kernel as it is without a store.
type fatalHook struct{ report chan<- error }

// OnWrite implements zapcore.CheckWriteHook. It does not return.
func (h fatalHook) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	var detail []string
	for _, f := range fields {
		if f.Type == zapcore.ErrorType {
			if err, ok := f.Interface.(error); ok {
				detail = append(detail, err.Error())
			}
		}
	}
	msg := ce.Message
	if len(detail) > 0 {
		msg += ": " + strings.Join(detail, ", ")
	}
	select {
	case h.report <- fmt.Errorf("etcd: %s", msg):
	default:
	}
	runtime.Goexit()
}

// catchFatal makes what etcd calls fatal or panic an error on s.fatal.
func (s *Server) catchFatal() []zap.Option {
	return []zap.Option{zap.WithFatalHook(fatalHook{s.fatal}), zap.WithPanicHook(fatalHook{s.fatal})}
}

func isNoSpace(err error) bool { return errors.Is(rpctypes.Error(err), rpctypes.ErrNoSpace) }

func isCompacted(err error) bool { return errors.Is(err, mvcc.ErrCompacted) }
