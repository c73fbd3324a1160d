package bgp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/supervise"
	"weft/internal/testkit"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// message is a BGP message (RFC 4271, section 4.1).
func message(kind byte, body []byte) []byte {
	m := make([]byte, 19, 19+len(body))
	for i := range 16 {
		m[i] = 0xff
	}
	binary.BigEndian.PutUint16(m[16:], uint16(19+len(body)))
	m[18] = kind
	return append(m, body...)
}

// open is an OPEN of AS 64513 with IPv4 unicast, graceful restart, four-octet AS numbers, extended messages and additional paths.
func open(as uint16, id byte) []byte {
	caps := []byte{1, 4, 0, 1, 0, 1, 2, 0, 65, 4, 0, 0, byte(as >> 8), byte(as), 6, 0}
	body := []byte{4, byte(as >> 8), byte(as), 0, 90, 10, 77, 0, id, byte(len(caps) + 2), 2, byte(len(caps))}
	return message(1, append(body, caps...))
}

// updates are well-formed bodies of UPDATE messages, to begin with.
func updates() [][]byte {
	attr := func(flags, kind byte, value ...byte) []byte {
		return append([]byte{flags, kind, byte(len(value))}, value...)
	}
	base := [][]byte{attr(0x40, 1, 0), attr(0x40, 2, 2, 1, 0, 0, 0xfc, 1), attr(0x40, 3, 10, 77, 0, 9)}
	more := [][]byte{
		attr(0x80, 4, 0, 0, 0, 7), attr(0x40, 5, 0, 0, 0, 100), attr(0x40, 6), attr(0xc0, 7, 0, 0, 0xfc, 1, 10, 0, 0, 1), attr(0xc0, 8, 0xfc, 1, 0, 7),
		attr(0x80, 9, 10, 0, 0, 1), attr(0x80, 10, 10, 0, 0, 1), attr(0xc0, 16, 0, 2, 0xfc, 1, 0, 0, 0, 1), attr(0xc0, 32, 0, 0, 0xfc, 1, 0, 0, 0, 7, 0, 0, 0, 8),
		attr(0xc0, 17, 2, 1, 0, 0, 0xfc, 1), attr(0xc0, 22, 0, 0, 0, 0, 0), attr(0xc0, 23, 0, 0), attr(0x80, 26, 1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1), attr(0x80, 29, 1, 0, 0),
		attr(0xc0, 40, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0),
		attr(0x80, 14, 0, 2, 1, 16, 0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 32, 0xfd, 0x90, 0, 1),
		attr(0x80, 14, 0, 1, 133, 0, 0, 5, 1, 24, 10, 1, 2), attr(0x80, 14, 0, 25, 70, 4, 10, 0, 0, 1, 0, 3, 0), attr(0x80, 14, 0x40, 4, 71, 4, 10, 0, 0, 1, 0, 0, 1, 0, 0),
		attr(0x80, 15, 0, 2, 1, 32, 0xfd, 0x90, 0, 1),
	}
	build := func(withdrawn []byte, attrs [][]byte, nlri ...byte) []byte {
		var a []byte
		for _, x := range attrs {
			a = append(a, x...)
		}
		b := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
		b = append(b, withdrawn...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a)))
		return append(append(b, a...), nlri...)
	}
	out := [][]byte{build(nil, base, 24, 10, 90, 1), build([]byte{24, 10, 90, 1}, nil), build(nil, nil)}
	for _, m := range more {
		out = append(out, build(nil, append(append([][]byte{}, base...), m), 24, 10, 90, 2, 16, 10, 91))
	}
	return out
}

// mutate changes some bytes of a message, cuts it or doubles a part.
func mutate(r *rand.Rand, b []byte) []byte {
	b = append([]byte{}, b...)
	for range 1 + r.IntN(4) {
		if len(b) == 0 {
			return b
		}
		i := r.IntN(len(b))
		switch r.IntN(6) {
		case 0, 1:
			b[i] = byte(r.Uint32())
		case 2:
			b[i] ^= 1 << r.IntN(8)
		case 3:
			b[i] = []byte{0, 1, 127, 128, 254, 255}[r.IntN(6)]
		case 4:
			b = append(b[:i], b[min(len(b), i+1+r.IntN(4)):]...)
		default:
			j := min(len(b), i+1+r.IntN(8))
			b = append(b[:j:j], append(append([]byte{}, b[i:j]...), b[j:]...)...)
		}
	}
	return b
}

// rogue is a neighbour that opens a session and sends what it is told; send returns how many messages it
// could send before the speaker ended the session.
func rogue(ns testkit.NS, id byte, messages [][]byte) (sent int, err error) {
	var c net.Conn
	err = kernel.Do(ns.Path, func() error {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 77, 0, id)}}
		d.SetMultipathTCP(false)
		var err error
		c, err = d.DialContext(context.Background(), "tcp", "10.77.0.1:179")
		return err
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(append(open(64514, id), message(4, nil)...)); err != nil {
		return 0, err
	}
	head := make([]byte, 19)
	for range 2 { // its OPEN and KEEPALIVE
		if _, err := io.ReadFull(c, head); err != nil {
			return 0, err
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[16:])-19)); err != nil {
			return 0, err
		}
		if head[18] == 3 {
			return 0, errors.New("refused")
		}
	}
	go func() { _, _ = io.Copy(io.Discard, c) }()
	for _, m := range messages {
		if _, err := c.Write(m); err != nil {
			return sent, nil
		}
		sent++
	}
	time.Sleep(5 * time.Millisecond)
	return sent, nil
}

// rogues is how many neighbours send garbage at a time: a session that ended does not begin at once again.
const rogues = 20

// TestGarbage: whatever a neighbour sends, the others' sessions stay, and the speaker lives or comes back.
func TestGarbage(t *testing.T) {
	h, ns := lab(t, 2)
	birdConfig{i: 2, asn: 64513}.start(t, ns[0])
	list := []routing.Session{session("10.77.0.2", 64513)}
	for i := range rogues {
		a := fmt.Sprintf("10.77.0.%d", 50+i)
		testkit.Run(t, ns[1], "ip", "addr", "add", a+"/24", "dev", "eth0")
		list = append(list, session(a, 64514, func(s *routing.Session) { s.Passive = true }))
	}
	h.keep(t, plan(sessions(list...)))
	h.established(t, "10.77.0.2")
	h.learns(t, "10.65.2.0/26 via 10.77.0.2")
	pid, since := h.speakerPID(t), h.peer(t, "10.77.0.2").Since
	// Control: as it is, the first is learned.
	eventually(t, "a well-formed UPDATE is learned", func() bool {
		_, _ = rogue(ns[1], 50, [][]byte{message(2, updates()[0])})
		return strings.Contains(h.learned(), "10.90.1.0/24")
	})
	var opened, messages, restarts atomic.Int64
	deadline := time.Now().Add(time.Duration(testkit.Count(30)) * time.Second)
	var done sync.WaitGroup
	for i := range rogues {
		done.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for time.Now().Before(deadline) {
				if n, err := rogue(ns[1], byte(50+i), garbage(r)); err == nil {
					opened.Add(1)
					messages.Add(int64(n))
				} else {
					time.Sleep(50 * time.Millisecond) // it lets nobody in for a while after a session ended
				}
			}
		})
	}
	done.Go(func() {
		for time.Now().Before(deadline) {
			if now, err := supervise.Listener(context.Background(), h.driver.process().Socket()); err == nil && now != 0 && now != pid {
				restarts.Add(1)
				pid = now
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	done.Wait()
	malformed := uint64(0)
	for _, p := range h.driver.States() {
		malformed += p.Malformed
	}
	t.Logf("%d sessions took %d mutated messages: %d restarts of the speaker; %d counted as malformed", opened.Load(), messages.Load(), restarts.Load(), malformed)
	if opened.Load() < 20 || messages.Load() < 400 || malformed == 0 && restarts.Load() == 0 {
		t.Error("that is too few to say anything")
	}
	if p := h.peer(t, "10.77.0.2"); restarts.Load() == 0 && (!p.Since.Equal(since) || p.Flaps > 0) {
		t.Errorf("the other session: %+v", p)
	}
	eventually(t, "the other's session and route are there", func() bool {
		return h.peer(t, "10.77.0.2").State == speaker.Established && strings.Contains(h.learned(), "10.65.2.0/26 via 10.77.0.2")
	})
	text, err := os.ReadFile(filepath.Join(h.dir, "bgp-speaker.log"))
	if err != nil {
		t.Fatal(err)
	}
	if i := strings.Index(string(text), "panic"); i >= 0 {
		t.Logf("a panic that was survived: %.1500s", text[i:])
	}
}

// garbage returns messages of which most are UPDATEs.
func garbage(r *rand.Rand) (list [][]byte) {
	base := updates()
	for range 200 {
		kind := byte(2)
		if r.IntN(50) == 0 {
			kind = byte(r.IntN(7))
		}
		list = append(list, message(kind, mutate(r, base[r.IntN(len(base))])))
	}
	return list
}
