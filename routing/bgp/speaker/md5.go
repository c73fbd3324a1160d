package speaker

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// md5Counters are those of the network namespace of segments whose TCP-MD5 signature is not as it should
// be. They do not say whose.
var md5Counters = []string{"TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"}

// md5Memory is how long a bad segment is held to explain why a session does not come up.
const md5Memory = 30 * time.Second

type md5Watch struct {
	mu    sync.Mutex
	known bool
	last  uint64
	at    time.Time // when the counters last rose
}

// recent tells whether the counters rose of late.
func (m *md5Watch) recent() bool {
	b, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return false
	}
	n := sumCounters(string(b), md5Counters)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known && n > m.last {
		m.at = time.Now()
	}
	m.known, m.last = true, n
	return time.Since(m.at) < md5Memory
}

// sumCounters adds counters of /proc/net/netstat: lines of names, each followed by one of values.
func sumCounters(text string, names []string) (sum uint64) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		keys, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := range min(len(keys), len(values)) {
			for _, n := range names {
				if keys[j] == n {
					v, _ := strconv.ParseUint(values[j], 10, 64)
					sum += v
				}
			}
		}
	}
	return sum
}
