package controllers

import "time"

// sightings remembers since when things were seen to be without an owner. A key has all that tells a thing from its
// successor, so that what changed is another thing.
type sightings[K comparable] map[K]sighting

type sighting struct {
	first time.Time
	times int
}

// observe notes what is seen now and returns what is ripe: seen before, and for the whole grace. What is not seen any
// more is forgotten.
func (s *sightings[K]) observe(now time.Time, seen []K, grace time.Duration) (ripe []K) {
	next := make(sightings[K], len(seen))
	for _, k := range seen {
		if _, twice := next[k]; twice {
			continue
		}
		was, known := (*s)[k]
		if !known {
			was.first = now
		}
		was.times++
		next[k] = was
		if was.times > 1 && now.Sub(was.first) >= grace {
			ripe = append(ripe, k)
		}
	}
	*s = next
	return ripe
}
