package cni

import (
	"fmt"
	"time"
)

// brake keeps the Keeper from fighting with somebody who deletes again and again what it puts back.
type brake struct {
	writes      int
	last, until time.Time
}

const (
	// brakeFree is how many times something is put back at once; brakeMax bounds the pause between two after that,
	// which doubles; brakeRest is the quiet after which all begins anew.
	brakeFree, brakeMax, brakeRest = 3, 5 * time.Minute, 10 * time.Minute
)

// pass tells whether something may be written now.
func (b *brake) pass(now time.Time) bool {
	return b == nil || b.writes < brakeFree || !now.Before(b.until)
}

// rested tells that nothing was put back for long.
func (b *brake) rested(now time.Time) bool { return b == nil || now.Sub(b.last) > brakeRest }

// wrote counts a write.
func (b *brake) wrote(now time.Time) {
	if b.rested(now) {
		b.writes = 0
	}
	b.writes++
	b.last, b.until = now, now.Add(min(time.Second<<min(b.writes, 20), brakeMax))
}

// trouble says that there is somebody to be found.
func (b *brake) trouble(a *attachment) string {
	if b == nil || b.writes < brakeFree {
		return ""
	}
	return fmt.Sprintf("somebody deleted the record or the addresses of pod %s %d times while the pod is attached; they are put back, but not before %s: find out who does so",
		a.id(), b.writes, b.until.Format(time.RFC3339))
}

// mayWrite tells whether something of a may be put back now; if not, Problems says so.
func (k *Keeper) mayWrite(a *attachment) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.brakes[a.key()]
	if b.pass(time.Now()) {
		return true
	}
	k.troubles[a.key()] = b.trouble(a)
	return false
}

// wrote counts that something of a was put back.
func (k *Keeper) wrote(a *attachment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.brakes[a.key()] == nil {
		k.brakes[a.key()] = &brake{}
	}
	k.brakes[a.key()].wrote(time.Now())
}
