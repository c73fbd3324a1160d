package etcd

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// slogCore hands what etcd logs through zap to slog. Most of etcd's information and warnings tell
// of its own settings, or of a retry whose outcome the caller gets as an error: they become Debug,
// errors become Warn. What etcd calls fatal or panic ends the server and is reported by Server.Err.
type slogCore struct {
	log   *slog.Logger
	attrs []any
}

func newZap(log *slog.Logger, opts ...zap.Option) *zap.Logger {
	return zap.New(slogCore{log: log}, opts...)
}

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l > zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.ErrorLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// chatter is an error that etcd 3.7 logs at the start of every new store, and then never again.
const chatter = "failed to update storage version"

func (c slogCore) Enabled(l zapcore.Level) bool {
	return l > zapcore.DebugLevel && c.log.Enabled(context.Background(), slogLevel(l))
}

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	c.attrs = append(c.attrs[:len(c.attrs):len(c.attrs)], attrs(fields)...)
	return c
}

func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slogLevel(e.Level)
	if e.Message == chatter {
		level = slog.LevelDebug
	}
	a := append(c.attrs[:len(c.attrs):len(c.attrs)], attrs(fields)...)
	c.log.Log(context.Background(), level, "etcd: "+e.Message, a...)
	return nil
}

func (slogCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	if len(fields) == 0 {
		return nil
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, len(fields))
	for _, f := range fields {
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
