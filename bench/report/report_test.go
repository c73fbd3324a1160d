package report

import (
	"bytes"
	"flag"
	"fmt"
	"image"
	"image/png"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/bench/result"
)

var update = flag.Bool("update", false, "write the golden files")

// world makes records of rates in Gbit/s: by encapsulation and MTU, one of each round.
type world struct {
	records []result.Record
}

func (w *world) add(e Encapsulation, mtu, streams, round int, side, metric string, unit result.Unit, v float64) {
	w.records = append(w.records, result.Record{Schema: 1, Experiment: "mtu", Run: "r", Time: time.Unix(1767225600, 0), Version: "v1",
		Machine:       result.Machine{Name: "m1", CPU: "a processor", Cores: 2, Kernel: "6.18"},
		Encapsulation: e.Name, Way: e.Way, MTU: mtu, Streams: streams, Round: round, Side: side, Metric: metric, Unit: unit, Value: v})
}

func (w *world) rates(e Encapsulation, mtu int, gbit ...float64) {
	for i, g := range gbit {
		for _, streams := range []int{1, 4} {
			w.add(e, mtu, streams, i+1, "", Throughput, result.BitsPerSecond, g*1e9)
			w.add(e, mtu, streams, i+1, "", Retransmits, result.Count, 3)
			w.add(e, mtu, streams, i+1, "both", CPU, result.SecondsPerGbit, 0.5/g)
		}
	}
}

func (w *world) small(e Encapsulation, mtu int, us float64, rounds int) {
	for r := range rounds {
		us := us * (1 + 0.1*float64(r))
		for i, q := range percentiles {
			w.add(e, mtu, 0, r+1, "", q.metric, result.Seconds, us*float64(1+i*i)/1e6)
		}
		w.add(e, mtu, 0, r+1, "", Requests, result.Count, 1000)
		w.add(e, mtu, 0, r+1, "", PacketsReceived, result.PacketsPerSecond, 3e6/us)
		w.add(e, mtu, 0, r+1, "", PacketsSent, result.PacketsPerSecond, 3.1e6/us)
	}
	w.add(e, mtu, 0, 0, "", PathMTU, result.Bytes, float64(mtu))
}

var (
	plain = Encapsulation{"none", ""}
	vxlan = Encapsulation{"vxlan", "kernel"}
	ipip  = Encapsulation{"ipip", "ebpf"}
	crypt = Encapsulation{"wireguard", "userspace"}
)

func jumbo() *world {
	w := &world{}
	w.rates(plain, 1280, 20, 21, 19)
	w.rates(plain, 1500, 22, 22.5, 21)
	w.rates(plain, 9000, 24, 25, 23)
	w.rates(vxlan, 1280, 15, 15.5, 14.5)
	w.rates(vxlan, 1450, 16, 16.2, 15.7)
	w.rates(vxlan, 8950, 15.8, 16.1, 15.5) // slower than the best, and within noise
	w.rates(ipip, 1280, 17, 17.2, 16.8)
	w.rates(ipip, 1480, 18.8, 18.9, 18.7)
	w.rates(ipip, 8980, 16, 16.1, 15.9) // slower beyond noise
	w.rates(crypt, 1440, 1.2, 1.25, 1.15)
	w.rates(crypt, 8940, 2.1, 2.2, 2)
	w.small(plain, 9000, 20, 3)
	w.small(vxlan, 8950, 27, 3)
	w.small(ipip, 8980, 24, 3)
	w.small(crypt, 8940, 150, 3)
	return w
}

func TestRecommend(t *testing.T) {
	a := Summarise(jumbo().records).Recommend()
	got := map[Encapsulation]int{}
	for _, c := range a.Choices {
		got[c.Encapsulation] = c.MTU
	}
	if diff := cmp.Diff(map[Encapsulation]int{plain: 9000, vxlan: 8950, ipip: 1480, crypt: 8940}, got); diff != "" {
		t.Errorf("recommended MTUs (-want +got):\n%s", diff)
	}
	if len(a.Why) != 3 || !strings.Contains(a.Why[1], "IPIP (eBPF) with MTU 1480") {
		t.Errorf("the encapsulation to use: %q", a.Why)
	}
}

// Two MTUs of the same true speed: noise must not make the smaller one be recommended, nor hide what is slower in truth.
func TestRecommendInNoise(t *testing.T) {
	for _, c := range []struct {
		name  string
		small []float64
		large []float64
		want  int
	}{
		{"rounds differ by a half", []float64{20, 12, 16}, []float64{13, 18, 11}, 9000},
		{"two rounds, one of them under load", []float64{20, 19}, []float64{18, 10}, 9000},
		{"one round, a little slower", []float64{20}, []float64{18}, 9000},
		{"one round, far slower", []float64{20}, []float64{12}, 1500},
		{"slower each time", []float64{20, 20.5, 19.8, 20.1}, []float64{17, 17.2, 16.9, 17.1}, 1500},
		{"faster each time", []float64{17, 17.2, 16.9, 17.1}, []float64{20, 20.5, 19.8, 20.1}, 9000},
	} {
		w := &world{}
		w.rates(plain, 1500, c.small...)
		w.rates(plain, 9000, c.large...)
		a := Summarise(w.records).Recommend()
		if len(a.Choices) != 1 || a.Choices[0].MTU != c.want {
			t.Errorf("%s: %+v, want MTU %d", c.name, a.Choices, c.want)
		}
	}
}

// A run that was interrupted has rounds with one number of streams only: they are no evidence against the others.
func TestRecommendOfAPart(t *testing.T) {
	w := &world{}
	w.rates(plain, 1500, 20, 21)
	w.add(plain, 9000, 1, 1, "", Throughput, result.BitsPerSecond, 1e9)
	if a := Summarise(w.records).Recommend(); len(a.Choices) != 1 || a.Choices[0].MTU != 1500 {
		t.Errorf("%+v", a.Choices)
	}
	if a := Summarise(nil).Recommend(); len(a.Choices) != 0 || len(a.Why) != 0 {
		t.Errorf("of nothing: %+v", a)
	}
}

func TestMarkdown(t *testing.T) {
	s := Summarise(jumbo().records)
	var b bytes.Buffer
	if err := s.Markdown(&b, s.Recommend(), Note(3, 9, fmt.Errorf("interrupt"), time.Minute), "plot.png"); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.md"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Pictures are made of a whole run, of one point, and of throughputs alone.
func TestPictures(t *testing.T) {
	one := &world{}
	one.rates(vxlan, 1450, 3)
	for name, w := range map[string]*world{"whole": jumbo(), "one point": one} {
		s := Summarise(w.records)
		var b, v bytes.Buffer
		if err := s.PNG(&b, s.Recommend()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		img, err := png.Decode(&b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !hasColour(img, "vxlan") {
			t.Errorf("%s: nothing has the colour of VXLAN", name)
		}
		if err := s.SVG(&v, s.Recommend()); err != nil || !strings.Contains(v.String(), "VXLAN (kernel)") || !strings.Contains(v.String(), "Gbit/s") {
			t.Errorf("%s: the SVG does not name VXLAN and the unit (%v)", name, err)
		}
	}
	s := Summarise(nil)
	if err := s.PNG(&bytes.Buffer{}, s.Recommend()); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}

func hasColour(img image.Image, name string) bool {
	r, g, b, _ := colours[name].RGBA()
	for x := range img.Bounds().Dx() {
		for y := range img.Bounds().Dy() {
			if r2, g2, b2, _ := img.At(x, y).RGBA(); r == r2 && g == g2 && b == b2 {
				return true
			}
		}
	}
	return false
}
