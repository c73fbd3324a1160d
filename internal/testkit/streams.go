package testkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Way is one of several ways for packets to go between two namespaces; Ready makes them go it.
type Way struct {
	Name  string
	Ready func()
}

// Streams is what TCP streams cost by several ways, one figure a round.
type Streams struct {
	Rate   map[string][]float64 // bits per second
	Cycles map[string][]float64 // of all processors, per byte; empty where they cannot be counted
}

// CompareStreams has iperf3 carry half a gigabyte by each way in turn, in a fixed number of rounds, and
// logs the results. On a shared machine the rates of single runs differ by a factor of two; the cycles
// count only what the processors did for this machine, so they tell more.
func CompareStreams(t testing.TB, from, to NS, dest netip.Addr, rounds int, ways ...Way) Streams {
	t.Helper()
	ServeStreams(t, to)
	s := Streams{map[string][]float64{}, map[string][]float64{}}
	counter, err := newCycles()
	if err != nil {
		t.Logf("cycles are not counted here: %v", err)
	}
	defer counter.close()
	for range rounds {
		for _, w := range ways {
			w.Ready()
			runtime.GC() // what making ready left to do, here and in the kernel, is not of the stream
			time.Sleep(50 * time.Millisecond)
			before := counter.read()
			rate, bytes := stream(t, from, dest)
			s.Rate[w.Name] = append(s.Rate[w.Name], rate)
			if n := counter.read() - before; n > 0 {
				s.Cycles[w.Name] = append(s.Cycles[w.Name], float64(n)/bytes)
			}
		}
		slices.Reverse(ways) // so that a load that grows or shrinks favours none
	}
	for _, w := range ways {
		r := s.Rate[w.Name]
		text := fmt.Sprintf("%-16s best %.2f, median %.2f, worst %.2f Gbit/s of %d runs", w.Name, slices.Max(r)/1e9, Median(r)/1e9, slices.Min(r)/1e9, len(r))
		if c := s.Cycles[w.Name]; len(c) > 0 {
			text += fmt.Sprintf("; median %.3f cycles a byte", Median(c))
		}
		t.Log(text)
	}
	return s
}

// Ratio is how much faster one way is than another: the median of the ratios of each round, and the range
// that holds it with 95 %.
type Ratio struct{ Median, Low, High float64 }

// Ratio compares what the ways carry for the same number of cycles or, where those cannot be counted, in
// the same time; it logs both. Of a way on a machine whose processors are the limit, both are the same.
func (s Streams) Ratio(t testing.TB, a, b string) Ratio {
	t.Helper()
	r := paired(s.Rate[a], s.Rate[b])
	t.Logf("%s to %s: %.3f, between %.3f and %.3f, in time", a, b, r.Median, r.Low, r.High)
	if len(s.Cycles[a]) == 0 || len(s.Cycles[a]) != len(s.Cycles[b]) {
		return r
	}
	r = paired(s.Cycles[b], s.Cycles[a])
	t.Logf("%s to %s: %.3f, between %.3f and %.3f, by cycles", a, b, r.Median, r.Low, r.High)
	return r
}

// Ratios are those of Ratio, one a round.
func (s Streams) Ratios(a, b string) []float64 {
	of, by := s.Rate[a], s.Rate[b]
	if len(s.Cycles[a]) > 0 && len(s.Cycles[a]) == len(s.Cycles[b]) {
		of, by = s.Cycles[b], s.Cycles[a]
	}
	return ratios(of, by)
}

func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

// paired goes by the ranks, so that the few runs in which the machine did something else do not matter.
func paired(a, b []float64) Ratio {
	all := ratios(a, b)
	slices.Sort(all)
	n := len(all)
	k := max(0, int(float64(n)/2-math.Sqrt(float64(n))))
	return Ratio{Median(all), all[k], all[n-1-k]}
}

// Median of at least one figure.
func Median(r []float64) float64 { return slices.Sorted(slices.Values(r))[len(r)/2] }

func stream(t testing.TB, from NS, dest netip.Addr) (bps, bytes float64) {
	t.Helper()
	return iperf3(t, from, dest, "-n", "500M")
}

// StreamRate runs an iperf3 client with these further arguments, and returns bits per second as the server counted them.
func StreamRate(t testing.TB, from NS, dest netip.Addr, args ...string) (bps float64) {
	t.Helper()
	bps, _ = iperf3(t, from, dest, args...)
	return bps
}

func iperf3(t testing.TB, from NS, dest netip.Addr, args ...string) (bps, bytes float64) {
	t.Helper()
	out := Run(t, from, append([]string{"iperf3", "-J", "-C", "cubic", "-c", dest.String()}, args...)...)
	var res struct {
		End struct {
			Received struct {
				Rate  float64 `json:"bits_per_second"`
				Bytes float64 `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	return res.End.Received.Rate, res.End.Received.Bytes
}

// ServeStreams runs an iperf3 server in the namespace until the test ends.
func ServeStreams(t testing.TB, ns NS) {
	t.Helper()
	cmd := exec.Command("iperf3", "-s")
	ns.Do(t, cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	Eventually(t, 5*time.Second, "iperf3 listens", func() bool {
		return strings.Contains(Run(t, ns, "ss", "-ltn"), ":5201")
	})
}

// cycles counts the cycles of all processors (perf_event_open(2)).
type cycles []int

func newCycles() (c cycles, err error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_CPU_CYCLES}
	attr.Size = uint32(unsafe.Sizeof(attr))
	for cpu := range runtime.NumCPU() {
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			c.close()
			return nil, errors.Join(errors.New("perf_event_open"), err)
		}
		c = append(c, fd)
	}
	return c, nil
}

func (c cycles) read() (n uint64) {
	for _, fd := range c {
		var b [8]byte
		if _, err := unix.Read(fd, b[:]); err == nil {
			n += *(*uint64)(unsafe.Pointer(&b))
		}
	}
	return n
}

func (c cycles) close() {
	for _, fd := range c {
		unix.Close(fd)
	}
}
