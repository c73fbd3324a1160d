// Package result is the shape of what measurements of this project are written as: JSON Lines, one Record a
// measured value. It owns the shape, its version and its reading and writing, not how anything is measured.
package result

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Schema is the version of Record. Adding an optional field or a metric does not change it; another meaning of one does.
const Schema = 1

// Unit is the unit of a value; its text is what a plot's axis says.
type Unit string

// The units that are used.
const (
	BitsPerSecond    Unit = "bit/s"
	PacketsPerSecond Unit = "packet/s"
	PerSecond        Unit = "1/s"
	Seconds          Unit = "s"
	SecondsPerGbit   Unit = "s/Gbit" // processor seconds for 10^9 bits of payload
	Bytes            Unit = "B"
	Count            Unit = "1"
	Ratio            Unit = "ratio"
)

// Machine is where a measurement ran.
type Machine struct {
	Name   string `json:"name"`   // host name
	CPU    string `json:"cpu"`    // model as /proc/cpuinfo names it; the architecture where it names none
	Cores  int    `json:"cores"`  // logical processors that may be used
	Memory uint64 `json:"memory"` // bytes
	Kernel string `json:"kernel"` // release, as uname -r
}

// Record is one measured value.
type Record struct {
	Schema     int       `json:"schema"`     // Schema
	Experiment string    `json:"experiment"` // what measured it: "mtu"
	Run        string    `json:"run"`        // the same in all records of one start of a command
	Time       time.Time `json:"time"`       // when this was measured
	Version    string    `json:"version"`    // of this program
	Commit     string    `json:"commit,omitempty"`
	Machine    Machine   `json:"machine"`
	Peer       *Machine  `json:"peer,omitempty"` // the other end, where it is another machine

	Encapsulation string `json:"encapsulation,omitempty"` // "none", "vxlan", "ipip", "wireguard"
	Way           string `json:"way,omitempty"`           // what does it: "kernel", "ebpf", "userspace"
	MTU           int    `json:"mtu,omitempty"`           // bytes of the inner IP packet
	Streams       int    `json:"streams,omitempty"`       // TCP connections at once
	Size          int    `json:"size,omitempty"`          // bytes of payload of a packet or request
	Round         int    `json:"round"`                   // from 1; 0: measured once
	Side          string `json:"side,omitempty"`          // "sender", "receiver"; "both": they share the machine
	Setting       string `json:"setting,omitempty"`       // what else it was measured under: "nftables, 1000 policies"

	Metric string  `json:"metric"` // one of the experiment's; its documentation says what it contains
	Unit   Unit    `json:"unit"`
	Value  float64 `json:"value"`
	Better Better  `json:"better,omitempty"` // of a Ratio: which way is good
	// Control marks a Ratio of the reference to itself: its distance from 1 is the noise of the run.
	Control bool `json:"control,omitempty"`
}

// Better says which of two values is the better one.
type Better string

// The ways in which a value may be better.
const (
	More Better = "more"
	Less Better = "less"
)

// Key is what two records have in common that measured the same thing, in different rounds or runs.
type Key struct {
	Experiment    string `json:"experiment"`
	Encapsulation string `json:"encapsulation,omitempty"`
	Way           string `json:"way,omitempty"`
	MTU           int    `json:"mtu,omitempty"`
	Streams       int    `json:"streams,omitempty"`
	Size          int    `json:"size,omitempty"`
	Side          string `json:"side,omitempty"`
	Setting       string `json:"setting,omitempty"`
	Metric        string `json:"metric"`
	Unit          Unit   `json:"unit"`
	Better        Better `json:"better,omitempty"`
	Control       bool   `json:"control,omitempty"`
}

// Key returns what the record measured.
func (r Record) Key() Key {
	return Key{r.Experiment, r.Encapsulation, r.Way, r.MTU, r.Streams, r.Size, r.Side, r.Setting, r.Metric, r.Unit, r.Better, r.Control}
}

// String names what is measured, without what is zero: "encap vxlan kernel throughput, 4 streams".
func (k Key) String() string {
	words := []string{k.Experiment}
	for _, w := range []string{k.Encapsulation, k.Way, k.Side, k.Metric} {
		if w != "" {
			words = append(words, w)
		}
	}
	out := strings.Join(words, " ")
	for _, n := range []struct {
		n    int
		what string
	}{{k.MTU, "MTU %d"}, {k.Streams, "%d streams"}, {k.Size, "%d bytes"}} {
		if n.n != 0 {
			out += ", " + fmt.Sprintf(n.what, n.n)
		}
	}
	if k.Setting != "" {
		out += ", " + k.Setting
	}
	return out
}

// Check tells what is wrong with a record; nil when nothing is.
func (r Record) Check() error {
	var errs []error
	if r.Schema != Schema {
		errs = append(errs, fmt.Errorf("schema %d: this release reads %d", r.Schema, Schema))
	}
	for _, f := range []struct{ name, value string }{{"experiment", r.Experiment}, {"run", r.Run}, {"metric", r.Metric}, {"unit", string(r.Unit)}} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s is missing", f.name))
		}
	}
	if r.Time.IsZero() {
		errs = append(errs, errors.New("time is missing"))
	}
	if r.Better != "" && r.Better != More && r.Better != Less {
		errs = append(errs, fmt.Errorf("better %q: want %q or %q", r.Better, More, Less))
	}
	if r.Control && r.Unit != Ratio {
		errs = append(errs, fmt.Errorf("a control in %s: it has to be a ratio", r.Unit))
	}
	if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		errs = append(errs, fmt.Errorf("value %v is no number", r.Value))
	}
	return errors.Join(errs...)
}

// Writer writes records as they come, each in one write, so that what was measured before an interruption is whole.
type Writer struct{ w io.Writer }

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w} }

// Write checks a record and writes it as one line.
func (w *Writer) Write(r Record) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("record of %s: %w", r.Metric, err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record of %s: %w", r.Metric, err)
	}
	_, err = w.w.Write(append(line, '\n'))
	return err
}

const maxLine = 1 << 20

// Read reads JSON Lines. A line that is no record of this schema is an error that names the line; what came before it
// is returned too. A last line without its end, as a process that was killed leaves, is left out.
func Read(r io.Reader) ([]Record, error) {
	var out []Record
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return out, fmt.Errorf("line %d: %w", n, err)
		}
		if err := rec.Check(); err != nil {
			return out, fmt.Errorf("line %d: %w", n, err)
		}
		out = append(out, rec)
	}
}

func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("it has more than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
