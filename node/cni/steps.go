package cni

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// stepTimes is how long the steps of a call took, some of them beside others. Its zero value works.
type stepTimes struct {
	mu    sync.Mutex
	names []string
	took  []time.Duration
}

// begin returns what ends the step.
func (s *stepTimes) begin(name string) func() {
	start := time.Now()
	return func() {
		took := time.Since(start)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.names, s.took = append(s.names, name), append(s.took, took)
	}
}

// shortStep is what a step takes at least to be named.
const shortStep = 100 * time.Microsecond

// String lists the steps that took a tenth of a millisecond or more, in the order in which they ended.
func (s *stepTimes) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for i, d := range s.took {
		if d >= shortStep {
			out = append(out, fmt.Sprintf("%s %.1f ms", s.names[i], d.Seconds()*1e3))
		}
	}
	return strings.Join(out, ", ")
}
