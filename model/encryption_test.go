package model

import "testing"

func TestWireGuardPort(t *testing.T) {
	c := EncryptionConfig{Port4: 51820, Port6: 65535}
	for _, tc := range []struct {
		f           Family
		epoch, want int
	}{{IPv4, 0, 51820}, {IPv4, 1, 51822}, {IPv4, 2, 51820}, {IPv6, 0, 65535}, {IPv6, 7, 65533}} {
		if got := c.Port(tc.f, tc.epoch); got != tc.want {
			t.Errorf("%v, epoch %d: port %d, want %d", tc.f, tc.epoch, got, tc.want)
		}
	}
}
