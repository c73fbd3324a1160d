// Command pod is what runs in the pods of tests. Without arguments it is the process that holds a pod's namespaces.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const usage = `usage: pod                        wait for a signal, and reap children
       pod serve ADDRESS          answer HTTP with the host's name and UDP with what came
       pod udp ADDRESS N INTERVAL send N packets, print how many were answered
       pod http URL N             N requests, each over a connection of its own; print who answered
       pod overflows              print how many packets found no room in a UDP socket of the pod
       pod stop                   end the container's first process, which then prints what it has`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0:
		return pause(ctx)
	case args[0] == "stop":
		return syscall.Kill(1, syscall.SIGTERM)
	case args[0] == "overflows" && len(args) == 1:
		return printed(overflows())
	case args[0] == "serve" && len(args) == 2:
		return serve(ctx, args[1])
	case args[0] == "udp" && len(args) == 4:
		n, err1 := strconv.Atoi(args[2])
		interval, err2 := time.ParseDuration(args[3])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return printed(ask(ctx, args[1], n, interval))
	case args[0] == "http" && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return printed(get(ctx, args[1], n))
	}
	return errors.New(usage)
}

func printed(v any, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}

func pause(ctx context.Context) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-children:
			for pid := 1; pid > 0; {
				pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

func serve(ctx context.Context, address string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	_ = packets.(*net.UDPConn).SetReadBuffer(readBuffer)
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := packets.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				_, _ = packets.WriteTo(b[:n], from)
			}
		}
	}()
	s := &http.Server{Addr: address, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, host)
	})}
	go func() { <-ctx.Done(); _ = packets.Close(); _ = s.Close() }()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// counts is what became of packets.
type counts struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
	// Refused to send, by this host's kernel.
	Refused int `json:"refused"`
	// LongestMS is the longest time without an answer, in milliseconds.
	LongestMS int64 `json:"longestMS"`
	// Overflowed are answers for which there was no room in the socket.
	Overflowed int `json:"overflowed"`
}

// readBuffer, in bytes, is more than the kernel gives: a process of a busy machine is given its turn late.
const readBuffer = 4 << 20

// overflows is how many packets have come to this network namespace and found no room in a UDP socket: the column
// RcvbufErrors of proc_net_snmp.
func overflows() (n int, err error) {
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	var names []string
	for l := range strings.Lines(string(text)) {
		f := strings.Fields(l)
		if len(f) == 0 || f[0] != "Udp:" {
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i > 0 && i < len(f) {
			return strconv.Atoi(f[i])
		}
		names = f
	}
	return 0, errors.New("/proc/net/snmp: no RcvbufErrors of UDP")
}

// late is for how long the last answers are waited for: on a busy machine a process may have to wait for its turn.
const late = 2 * time.Second

// ask sends n packets, one each interval, and waits for the last answers.
func ask(ctx context.Context, address string, n int, interval time.Duration) (c counts, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", address)
	if err != nil {
		return c, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.(*net.UDPConn).SetReadBuffer(readBuffer)
	before, err := overflows()
	if err != nil {
		return c, err
	}
	var done sync.WaitGroup
	done.Go(func() {
		seen, last := make([]bool, n), time.Now()
		b := make([]byte, 16)
		for c.Answered < n {
			k, err := conn.Read(b)
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if seq := binary.BigEndian.Uint64(b); err == nil && k == 16 && seq < uint64(n) && !seen[seq] {
				seen[seq] = true
				c.Answered++
				c.LongestMS = max(c.LongestMS, time.Since(last).Milliseconds())
				last = time.Now()
			}
		}
	})
	tick := time.NewTicker(interval)
	defer tick.Stop()
	sent, refused := 0, 0
	for ; sent < n && ctx.Err() == nil; <-tick.C {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], uint64(sent))
		if _, err := conn.Write(b[:]); err != nil {
			refused++
		}
		sent++
	}
	_ = conn.SetReadDeadline(time.Now().Add(late))
	done.Wait()
	c.Sent, c.Refused = sent, refused
	after, err := overflows()
	c.Overflowed = after - before
	return c, err
}

// get makes n requests and counts the answers by their text.
func get(ctx context.Context, url string, n int) (map[string]int, error) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	by := map[string]int{}
	for range n {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			by["error: "+err.Error()]++
			continue
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			by["error: "+err.Error()]++
			continue
		}
		by[string(b)]++
	}
	return by, nil
}
