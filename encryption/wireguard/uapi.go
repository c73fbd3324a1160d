package wireguard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft/encryption"
	"weft/encryption/wireguard/userspace"
	"weft/model"
)

// uapiTimeout bounds one exchange with a process; 5,000 peers take a fraction of a second.
const uapiTimeout = 30 * time.Second

// socketControl configures devices of processes by the configuration protocol
// (https://www.wireguard.com/xplatform/) and the revision that package userspace adds to it.
type socketControl struct{ dir string }

func (c *socketControl) close() {}

func (c *socketControl) process(name string) userspace.Process {
	return userspace.Process{Device: name, SocketDir: c.dir, Interface: userspace.Interface}
}

type exchange struct {
	net.Conn
	r *bufio.Reader
}

func (c *socketControl) dial(ctx context.Context, name string) (*exchange, func(), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.process(name).Socket())
	if err != nil {
		return nil, nil, fmt.Errorf("reach the process of WireGuard device %s: %w", name, err)
	}
	_ = conn.SetDeadline(time.Now().Add(uapiTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return &exchange{conn, bufio.NewReaderSize(conn, 1<<16)}, func() { stop(); conn.Close() }, nil
}

// do sends one operation and calls line for each line of the answer.
func (e *exchange) do(request string, line func(key, value string) error) error {
	if _, err := io.WriteString(e, request); err != nil {
		return err
	}
	return e.answer(line)
}

func (e *exchange) answer(line func(key, value string) error) error {
	code := int64(-1)
	var bad error
	for {
		text, err := e.r.ReadString('\n')
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		text = strings.TrimSuffix(text, "\n")
		if text == "" {
			break
		}
		key, value, ok := strings.Cut(text, "=")
		switch {
		case !ok:
			bad = errors.New("the answer has a line without an equals sign")
		case key == "errno":
			if code, err = strconv.ParseInt(value, 10, 64); err != nil {
				bad = errors.New("the answer has an error that is not a number")
			}
		case line != nil && bad == nil:
			bad = line(key, value)
		}
	}
	if code != 0 && bad == nil {
		return syscall.Errno(max(code, -code))
	}
	return bad
}

func (e *exchange) revision() (n uint64, err error) {
	err = e.do("revision=1\n\n", func(_, value string) (err error) {
		n, err = strconv.ParseUint(value, 10, 64)
		return err
	})
	return n, err
}

// revision asks how often the configuration was set.
func (c *socketControl) revision(ctx context.Context, name string) (uint64, error) {
	e, done, err := c.dial(ctx, name)
	if err != nil {
		return 0, err
	}
	defer done()
	n, err := e.revision()
	if err != nil {
		return 0, fmt.Errorf("ask the process of WireGuard device %s for its revision: %w", name, err)
	}
	return n, nil
}

func (c *socketControl) read(ctx context.Context, name string) (*state, error) {
	e, done, err := c.dial(ctx, name)
	if err != nil {
		return nil, err
	}
	defer done()
	s := &state{peers: map[model.PublicKey]peerState{}}
	s.revision, err = e.revision()
	if err == nil {
		p := parser{s: s}
		err = errors.Join(e.do("get=1\n\n", p.line), p.end())
	}
	if err != nil {
		return nil, fmt.Errorf("read WireGuard device %s: %w", name, err)
	}
	return s, nil
}

// parser reads the answer to "get".
type parser struct {
	s    *state
	key  model.PublicKey
	peer peerState
	in   bool // a peer's lines
	sec  int64
	nsec int64
}

// end notes the peer whose lines came last.
func (p *parser) end() error {
	if !p.in {
		return nil
	}
	if p.sec != 0 || p.nsec != 0 {
		p.peer.handshake = time.Unix(p.sec, p.nsec)
	}
	sortPrefixes(p.peer.allowed)
	p.s.peers[p.key] = p.peer
	p.peer, p.sec, p.nsec = peerState{}, 0, 0
	return nil
}

func (p *parser) line(key, value string) (err error) {
	defer func() {
		if err != nil { // which may hold the value: not a key's
			err = fmt.Errorf("the answer has a %s that cannot be read", key)
		}
	}()
	switch key {
	case "private_key":
		var b [32]byte
		if b, err = key32(value); err == nil {
			p.s.key, err = encryption.NewPrivateKey(b)
		}
	case "listen_port":
		p.s.port, err = strconv.Atoi(value)
	case "fwmark":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 32)
		p.s.fwmark = uint32(n)
	case "public_key":
		_ = p.end()
		p.in = true
		p.key, err = key32(value)
	case "preshared_key":
		var b [32]byte
		b, err = key32(value)
		p.peer.preshared = b != [32]byte{}
	case "endpoint":
		p.peer.endpoint, err = netip.ParseAddrPort(value)
	case "allowed_ip":
		var a netip.Prefix
		a, err = netip.ParsePrefix(value)
		p.peer.allowed = append(p.peer.allowed, a)
	case "persistent_keepalive_interval":
		p.peer.keepalive, err = strconv.Atoi(value)
	case "last_handshake_time_sec":
		p.sec, err = strconv.ParseInt(value, 10, 64)
	case "last_handshake_time_nsec":
		p.nsec, err = strconv.ParseInt(value, 10, 64)
	case "rx_bytes":
		p.peer.rx, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.peer.tx, err = strconv.ParseUint(value, 10, 64)
	}
	return err
}

func key32(text string) (k [32]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(k) {
		return k, errors.New("want 32 bytes in hex")
	}
	return [32]byte(b), nil
}

func (c *socketControl) write(ctx context.Context, name string, before uint64, ch change) (uint64, bool, error) {
	e, done, err := c.dial(ctx, name)
	if err != nil {
		return 0, false, err
	}
	defer done()
	err = e.do(encode(ch), nil)
	if err != nil {
		return 0, false, fmt.Errorf("configure WireGuard device %s: %w", name, err)
	}
	now, err := e.revision()
	if err != nil {
		return 0, false, fmt.Errorf("configure WireGuard device %s: %w", name, err)
	}
	return now, now != before+userspace.RevisionStep, nil
}

// encode is the operation "set". Prefixes are dropped after all were added, since one that another peer
// got is not to be dropped, and cannot be.
func encode(c change) string {
	var b bytes.Buffer
	b.WriteString("set=1\n")
	if c.key != nil {
		raw := c.key.Bytes()
		b.WriteString("private_key=" + hex.EncodeToString(raw[:]) + "\n")
	}
	if c.port != nil {
		fmt.Fprintf(&b, "listen_port=%d\n", *c.port)
	}
	if c.fwmark != nil {
		fmt.Fprintf(&b, "fwmark=%d\n", *c.fwmark)
	}
	for _, p := range c.peers {
		b.WriteString("public_key=" + hex.EncodeToString(p.key[:]) + "\n")
		if p.remove {
			b.WriteString("remove=true\n")
			continue
		}
		if p.unshare {
			b.WriteString("preshared_key=" + strings.Repeat("0", 64) + "\n")
		}
		if p.endpoint.IsValid() {
			b.WriteString("endpoint=" + p.endpoint.String() + "\n")
		}
		if p.keepalive != nil {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", *p.keepalive)
		}
		for _, a := range p.add {
			b.WriteString("allowed_ip=" + a.String() + "\n")
		}
	}
	for _, p := range c.peers {
		if len(p.drop) == 0 || p.remove {
			continue
		}
		b.WriteString("public_key=" + hex.EncodeToString(p.key[:]) + "\n")
		for _, a := range p.drop {
			b.WriteString("allowed_ip=-" + a.String() + "\n")
		}
	}
	b.WriteString("\n")
	return b.String()
}
