package storetest

import (
	"net"
	"sync"
	"testing"
)

// Proxy is a wire between a client and a server that can be cut.
type Proxy struct {
	listener net.Listener
	network  string
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	frozen chan struct{} // closed: bytes pass; open: they are held
	refuse bool
	cuts   int
}

// NewProxy listens on a network ("unix", "tcp") at an address, and leads to target on the same network.
func NewProxy(t testing.TB, network, address, target string) *Proxy {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, network: network, target: target, conns: map[net.Conn]bool{}, frozen: make(chan struct{})}
	close(p.frozen)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Address is where it listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		up, err := net.Dial(p.network, p.target)
		if err != nil || refuse {
			_ = c.Close()
			if up != nil {
				_ = up.Close()
			}
			continue
		}
		p.mu.Lock()
		p.conns[c], p.conns[up] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(c, up) })
		p.wg.Go(func() { p.copy(up, c) })
	}
}

func (p *Proxy) copy(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		gate := p.frozen
		p.mu.Unlock()
		<-gate
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = dst.Close(), src.Close()
	p.mu.Lock()
	delete(p.conns, dst)
	delete(p.conns, src)
	p.mu.Unlock()
}

// Cut breaks every connection; new ones are possible.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.cuts++
}

// Refuse closes new connections at once, or does not any more.
func (p *Proxy) Refuse(r bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = r
}

// Freeze holds all bytes until the returned function is called: the peer is there and silent.
func (p *Proxy) Freeze() (thaw func()) {
	gate := make(chan struct{})
	p.mu.Lock()
	p.frozen = gate
	p.mu.Unlock()
	return sync.OnceFunc(func() { close(gate) })
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.Cut()
	p.wg.Wait()
}

// Cuts is how often it was cut.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}
