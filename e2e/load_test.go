package e2e

import (
	"errors"
	"testing"

	"weft/internal/traffic"
)

// What was lost and broken is recorded, and nothing of a run that sent too little to lose anything.
func TestWholeness(t *testing.T) {
	pair := func(sent, lost uint64, tcp *traffic.Stream) traffic.Report {
		return traffic.Report{Pairs: []traffic.Pair{{Sent: sent, Lost: lost, TCP: tcp}}}
	}
	for _, c := range []struct {
		what                        string
		rep                         traffic.Report
		lost, sent, broken, streams float64
		none                        bool
	}{
		{what: "whole", rep: pair(200, 0, &traffic.Stream{}), sent: 200, streams: 1},
		{what: "lost and broken", rep: pair(200, 3, &traffic.Stream{Err: errors.New("reset")}), lost: 3, sent: 200, broken: 1, streams: 1},
		{what: "too few packets", rep: pair(chances-1, 0, &traffic.Stream{}), none: true},
		{what: "no stream", rep: pair(200, 0, nil), none: true},
	} {
		got := map[string]float64{}
		for _, r := range wholeness(c.what, c.rep) {
			got[r.Metric] = r.Value
		}
		if c.none != (len(got) == 0) || got["lost"] != c.lost || got["sent"] != c.sent || got["streams_broken"] != c.broken || got["streams"] != c.streams {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
