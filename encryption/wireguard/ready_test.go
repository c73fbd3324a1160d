package wireguard

import (
	"testing"

	"weft/encryption/wireguard/userspace"
	"weft/internal/supervise"
)

// What the process says is what its supervisor understands.
func TestReadyIsUnderstood(t *testing.T) {
	if userspace.Ready != supervise.Ready || userspace.Busy != supervise.Busy {
		t.Errorf("the process says %q and %q, understood are %q and %q", userspace.Ready, userspace.Busy, supervise.Ready, supervise.Busy)
	}
}
