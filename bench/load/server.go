package load

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weft/bench/result"
)

// Limits bound what clients may have of a server. Zero values are replaced by those of DefaultLimits.
type Limits struct {
	Duration  time.Duration // of one measurement
	Streams   int           // connections at once of one session
	Sessions  int           // at once
	Idle      time.Duration // of a session that asks for nothing
	Strangers int           // connections at once that have not proved anything yet
}

// DefaultLimits are generous for a bench and small for a host.
var DefaultLimits = Limits{Duration: time.Minute, Streams: 64, Sessions: 8, Idle: 2 * time.Minute, Strangers: 32}

// Server is the end that answers and counts.
type Server struct {
	Token  string
	Limits Limits
	Log    func(format string, args ...any) // lines for people; nil: none
	// Setup does what a client asks for beyond traffic, and returns what undoes it, which is called when the session ends.
	// nil: this server does nothing of the kind.
	Setup func(ctx context.Context, from netip.Addr, body json.RawMessage) (answer json.RawMessage, undo func(), err error)

	once      sync.Once
	mu        sync.Mutex
	sessions  map[[keyBytes]byte]*session
	strangers chan struct{}
	lastUse   atomic.Int64 // Unix ns
	refused   atomic.Uint64
}

// session is one client.
type session struct {
	key     [keyBytes]byte
	from    netip.Addr
	bytes   atomic.Uint64
	packets atomic.Uint64

	mu     sync.Mutex
	conns  map[net.Conn]bool // its streams and echoes
	closed bool
}

func (s *Server) init() {
	s.once.Do(func() {
		d := DefaultLimits
		l := &s.Limits
		l.Duration, l.Idle = orElse(l.Duration, d.Duration), orElse(l.Idle, d.Idle)
		l.Streams, l.Sessions, l.Strangers = orElse(l.Streams, d.Streams), orElse(l.Sessions, d.Sessions), orElse(l.Strangers, d.Strangers)
		s.sessions, s.strangers = map[[keyBytes]byte]*session{}, make(chan struct{}, l.Strangers)
		s.use()
	})
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (s *Server) use() { s.lastUse.Store(time.Now().UnixNano()) }

// Unused returns for how long the server has had no session.
func (s *Server) Unused() time.Duration {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) > 0 {
		return 0
	}
	return time.Since(time.Unix(0, s.lastUse.Load()))
}

// Refused returns how many connections did not prove that they know the token.
func (s *Server) Refused() uint64 { return s.refused.Load() }

func (s *Server) say(format string, args ...any) {
	if s.Log != nil {
		s.Log(format, args...)
	}
}

// Serve answers at the listener until ctx ends, and returns when all that it began has ended. It closes the listener. A
// server may serve several listeners; a session is known at all of them.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	s.init()
	if s.Token == "" {
		l.Close()
		return errors.New("serve: a server without a token would be anybody's")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, l.Close)
	defer stop()
	defer l.Close()
	all.Go(func() { s.servePackets(l.udp) })
	for {
		c, err := l.tcp.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, net.ErrClosed) {
				cancel()
				return fmt.Errorf("accept on %v: %w", l.Addr(), err)
			}
			select { // as many files as the process may have: others may be closed soon
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		select {
		case s.strangers <- struct{}{}:
		default:
			s.refused.Add(1)
			_ = c.Close()
			continue
		}
		all.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			s.connection(ctx, c)
		})
	}
}

// connection serves one connection, which begins as a stranger's.
func (s *Server) connection(ctx context.Context, c net.Conn) {
	in := bufio.NewReader(c)
	h, err := s.admit(c, in)
	<-s.strangers
	if err != nil {
		s.refused.Add(1)
		return // without a word: a stranger learns nothing
	}
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if h.Open == openSession {
		s.session(ctx, c, in, from)
		return
	}
	if ses := s.find(h.Session, from); ses != nil && in.Buffered() == 0 {
		s.data(c, ses, h)
	}
}

func (s *Server) admit(c net.Conn, in *bufio.Reader) (hello, error) {
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce)
	_ = c.SetDeadline(time.Now().Add(helloTime))
	if _, err := fmt.Fprintf(c, "%s%x\n", greeting, nonce); err != nil {
		return hello{}, err
	}
	line, err := readLine(in, maxHello)
	if err != nil {
		return hello{}, err
	}
	h, err := parseHello(line)
	if err == nil && !proves(s.Token, nonce, h) {
		err = errors.New("does not know the token")
	}
	return h, errors.Join(err, c.SetDeadline(time.Time{}))
}

// find returns the session of a key, of a client at the same address.
func (s *Server) find(key string, from netip.Addr) *session {
	b, err := hex.DecodeString(key)
	if err != nil || len(b) != keyBytes {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ses := s.sessions[[keyBytes]byte(b)]; ses != nil && ses.from == from {
		return ses
	}
	return nil
}

// session serves a client until it goes, or is idle for too long.
func (s *Server) session(ctx context.Context, c net.Conn, in *bufio.Reader, from netip.Addr) {
	ses := &session{from: from, conns: map[net.Conn]bool{}}
	_, _ = rand.Read(ses.key[:])
	s.mu.Lock()
	full := len(s.sessions) >= s.Limits.Sessions
	if !full {
		s.sessions[ses.key] = ses
	}
	s.mu.Unlock()
	if full {
		_ = writeJSON(c, answer{Error: fmt.Sprintf("%d sessions are open already", s.Limits.Sessions)})
		return
	}
	defer func() {
		s.mu.Lock()
		delete(s.sessions, ses.key)
		s.mu.Unlock()
		ses.close()
		s.use()
	}()
	var undo []func()
	defer func() {
		for _, f := range undo {
			f()
		}
	}()
	m := result.ThisMachine()
	if writeJSON(c, welcome{Session: hex.EncodeToString(ses.key[:]), Machine: &m, Boot: bootID()}) != nil {
		return
	}
	s.say("session with %v", from)
	defer s.say("session with %v ended", from)
	for {
		_ = c.SetReadDeadline(time.Now().Add(s.Limits.Idle))
		var r request
		if err := readJSON(in, maxLine, &r); err != nil {
			return
		}
		a, f := s.answer(ctx, ses, r)
		if f != nil {
			undo = append(undo, f)
		}
		_ = c.SetWriteDeadline(time.Now().Add(s.Limits.Idle))
		if writeJSON(c, a) != nil {
			return
		}
	}
}

func (s *Server) answer(ctx context.Context, ses *session, r request) (answer, func()) {
	var a answer
	var undo func()
	err := errors.New("asks for what there is not")
	switch {
	case r.Do == doCount && (r.Time <= 0 || r.Settle < 0 || r.Time > s.Limits.Duration || r.Settle > s.Limits.Duration):
		err = fmt.Errorf("measure for %v after %v: this server allows %v each", r.Time, r.Settle, s.Limits.Duration)
	case r.Do == doCount:
		a.Count, err = ses.count(ctx, r.Settle, r.Time)
	case r.Do == doSetup && s.Setup != nil:
		a.Body, undo, err = s.Setup(ctx, ses.from, r.Body)
	}
	if err != nil {
		a = answer{Error: err.Error()}
	}
	return a, undo
}

// count watches for a while what arrives.
func (ses *session) count(ctx context.Context, settle, d time.Duration) (*counted, error) {
	if err := wait(ctx, settle); err != nil {
		return nil, err
	}
	busy, err := busyTime()
	if err != nil {
		return nil, err
	}
	begin, bytes, packets := time.Now(), ses.bytes.Load(), ses.packets.Load()
	if err := wait(ctx, d); err != nil {
		return nil, err
	}
	c := &counted{Bytes: ses.bytes.Load() - bytes, Packets: ses.packets.Load() - packets, Time: time.Since(begin)}
	after, err := busyTime()
	c.Busy = after - busy
	return c, err
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// take makes a connection the session's, as long as both last. Those of the measurement before may be about to go: it waits a while for
// them.
func (ses *session) take(c net.Conn, limit int) bool {
	for end := time.Now().Add(takeTime); ; time.Sleep(5 * time.Millisecond) {
		if ses.tryTake(c, limit) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func (ses *session) tryTake(c net.Conn, limit int) bool {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.closed || len(ses.conns) >= limit {
		return false
	}
	ses.conns[c] = true
	return true
}

func (ses *session) drop(c net.Conn) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	delete(ses.conns, c)
}

func (ses *session) close() {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.closed = true
	for c := range ses.conns {
		_ = c.Close()
	}
}

// data serves a stream or an echo.
func (s *Server) data(c net.Conn, ses *session, h hello) {
	if !ses.take(c, s.Limits.Streams) {
		_ = writeJSON(c, answer{Error: fmt.Sprintf("%d streams are open already, more this server does not allow", s.Limits.Streams)})
		return
	}
	defer ses.drop(c)
	// Twice: what is counted, and what settles before and drains after it.
	_ = c.SetDeadline(time.Now().Add(2*s.Limits.Duration + helloTime))
	if writeJSON(c, welcome{}) != nil {
		return
	}
	if h.Open == openEcho {
		echo(c, h.Size)
		return
	}
	b := make([]byte, bufferBytes)
	for {
		n, err := c.Read(b)
		ses.bytes.Add(uint64(n))
		if err != nil {
			return
		}
	}
}
