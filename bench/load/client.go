package load

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"weft/bench/result"
	"weft/internal/kernel"
)

// Client is a session with a server. Its measurements run one at a time.
type Client struct {
	// Machine is the server's, and SameMachine tells that it is the client's too: the processors' work then is that of
	// both ends together.
	Machine     result.Machine
	SameMachine bool

	o        Options
	conn     net.Conn
	in       *bufio.Reader
	key      [keyBytes]byte
	patience time.Duration // of a probe, by the last that was answered; 0: none was
}

// Options say where a server is and how it is reached.
type Options struct {
	From  Place
	Local netip.Addr // source; the zero Addr lets the kernel choose
	To    netip.AddrPort
	Token string
	// Segment bounds the packets of TCP to this many bytes of IP; 0: what the interfaces and routes say.
	Segment int
	// Rate bounds what each stream writes, in bytes a second; 0: as fast as it goes.
	Rate float64
}

// ErrToken says that the server closed the connection instead of answering the proof.
var ErrToken = errors.New("the server did not take the token: give the one that weft bench serve printed")

const connectTime = 5 * time.Second

// Connect opens a session.
func Connect(ctx context.Context, o Options) (*Client, error) {
	c := &Client{o: o}
	var w welcome
	var err error
	if c.conn, c.in, err = c.open(ctx, hello{Open: openSession}, &w); err != nil {
		return nil, fmt.Errorf("begin a session with %v: %w", o.To, err)
	}
	key, err := hex.DecodeString(w.Session)
	if err != nil || len(key) != keyBytes {
		_ = c.conn.Close()
		return nil, fmt.Errorf("begin a session with %v: it gives no key", o.To)
	}
	c.key = [keyBytes]byte(key)
	if w.Machine != nil {
		c.Machine = *w.Machine
	}
	c.SameMachine = w.Boot != "" && w.Boot == bootID()
	return c, nil
}

// Close ends the session.
func (c *Client) Close() { _ = c.conn.Close() }

// open makes a connection and proves that it knows the token.
func (c *Client) open(ctx context.Context, h hello, w *welcome) (net.Conn, *bufio.Reader, error) {
	d := net.Dialer{Timeout: connectTime, KeepAliveConfig: keepAlive, Control: c.control}
	if c.o.Local.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: c.o.Local.AsSlice()}
	}
	var conn net.Conn
	// One literal address: the socket is opened by this goroutine, in this place.
	err := c.o.From.do(func() (err error) {
		conn, err = d.DialContext(ctx, "tcp", c.o.To.String())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	fail := func(err error) (net.Conn, *bufio.Reader, error) {
		_ = conn.Close()
		return nil, nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(helloTime))
	in := bufio.NewReader(conn)
	nonce, err := readGreeting(in)
	if err != nil {
		return fail(err)
	}
	h.Session = hex.EncodeToString(c.key[:])
	h.Proof = hex.EncodeToString(proof(c.o.Token, nonce, h.Open))
	if err := writeJSON(conn, h); err != nil {
		return fail(err)
	}
	var answered struct {
		welcome
		Error string `json:"error"`
	}
	if err := readJSON(in, maxLine, &answered); err != nil {
		return fail(errors.Join(ErrToken, err))
	}
	if answered.Error != "" {
		return fail(errors.New(answered.Error))
	}
	*w = answered.welcome
	_ = conn.SetDeadline(time.Time{})
	return conn, in, nil
}

func (c *Client) control(network, address string, raw syscall.RawConn) error {
	if err := kernel.Cubic(network, address, raw); err != nil || c.o.Segment == 0 {
		return err
	}
	return onSocket(raw, mss(c.o.Segment, c.o.To.Addr()))
}

// ask sends a request and returns its answer, which may take d and a moment.
func (c *Client) ask(ctx context.Context, r request, d time.Duration) (answer, error) {
	var a answer
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })()
	_ = c.conn.SetDeadline(time.Now().Add(d + 2*connectTime))
	err := writeJSON(c.conn, r)
	if err == nil {
		err = readJSON(c.in, maxLine, &a)
	}
	switch {
	case ctx.Err() != nil:
		return a, context.Cause(ctx)
	case err != nil:
		return a, fmt.Errorf("the server of %v does not answer: %w", c.o.To, err)
	case a.Error != "":
		return a, fmt.Errorf("the server of %v: %s", c.o.To, a.Error)
	}
	return a, nil
}

// Setup asks for what the server's Setup does.
func (c *Client) Setup(ctx context.Context, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	a, err := c.ask(ctx, request{Do: doSetup, Body: b}, 30*time.Second)
	if err != nil {
		return err
	}
	return json.Unmarshal(a.Body, into)
}

// SetSegment bounds the packets of TCP connections that are made from now on to this many bytes of IP.
func (c *Client) SetSegment(mtu int) error {
	if mtu < 200 {
		return fmt.Errorf("packets of %d bytes: want 200 or more", mtu)
	}
	c.o.Segment = mtu
	return nil
}
