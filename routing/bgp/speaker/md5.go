package speaker

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// badMD5 says what was wrong with the TCP-MD5 signatures of segments that came of late. The kernel counts
// them by network namespace: whose they were is not known.
type badMD5 struct {
	wrong, missing, unexpected bool
}

// md5Memory is how long a bad segment is held to explain why a session does not come up.
const md5Memory = 30 * time.Second

type md5Watch struct {
	mu    sync.Mutex
	known bool
	last  [3]uint64
	at    [3]time.Time // when each counter last rose
}

// recent tells which counters rose of late.
func (m *md5Watch) recent() badMD5 {
	b, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return badMD5{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, name := range []string{"TCPMD5Failure", "TCPMD5NotFound", "TCPMD5Unexpected"} {
		n := counter(string(b), name)
		if m.known && n > m.last[i] {
			m.at[i] = time.Now()
		}
		m.last[i] = n
	}
	m.known = true
	late := func(i int) bool { return time.Since(m.at[i]) < md5Memory }
	return badMD5{wrong: late(0), missing: late(1), unexpected: late(2)}
}

// counter reads one of /proc/net/netstat: lines of names, each followed by one of values.
func counter(text, name string) uint64 {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		keys, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := range min(len(keys), len(values)) {
			if keys[j] == name {
				n, _ := strconv.ParseUint(values[j], 10, 64)
				return n
			}
		}
	}
	return 0
}
