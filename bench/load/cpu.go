package load

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHZ is how many ticks a second /proc/stat counts in, on every architecture that Go runs on (proc_stat(5)).
const userHZ = 100

// busyTime returns for how long this machine's processors worked since it started, all of them added up: user, nice,
// system, irq and softirq of /proc/stat, in steps of 10 ms. It holds what every program did, and the kernel for it;
// not what a hypervisor took away (steal), nor waiting.
func busyTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read what the processors did: %w", err)
	}
	return parseBusy(b)
}

func parseBusy(b []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %.60q: want the sum of all processors", line)
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} { // user nice system [idle iowait] irq softirq
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// bootID is different on every machine and after every start of one.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
