package testkit

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

// Patient is a limit of time for a machine that does nothing else, stretched by how many processes ask for each of
// this machine's processors (the load of the last minute, 8 times at most), and by 10 on an emulated one.
func Patient(limit time.Duration) time.Duration {
	if Emulated() {
		return 10 * limit
	}
	var load float64
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &load)
	}
	return stretch(limit, load, runtime.NumCPU())
}

func stretch(limit time.Duration, load float64, processors int) time.Duration {
	return time.Duration(float64(limit) * min(8, max(1, load/float64(processors))))
}
