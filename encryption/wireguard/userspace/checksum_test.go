package userspace

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestMendChecksum(t *testing.T) {
	packet := func(payload ...byte) []byte {
		p := make([]byte, headerIPv6+headerUDP, 64)
		p[0], p[6], p[7], p[23], p[39] = 0x60, protoUDP, 64, 1, 2
		copy(p[40:], []byte{0x10, 0x01, 0x20, 0x02, 0, byte(headerUDP + len(payload))})
		return append(p, payload...)
	}
	for _, tail := range [][]byte{{}, {7}, {1, 2, 3}} {
		p := packet(append([]byte{0, 0}, tail...)...)
		binary.BigEndian.PutUint16(p[48:], ^sumUDP(p)) // so that the checksum is 0
		want := bytes.Clone(p)
		want[46], want[47] = 0xff, 0xff
		if mendChecksum(p); !bytes.Equal(p, want) {
			t.Errorf("a checksum of 0 is not mended: %x", p)
		}
	}
	others := map[string][]byte{
		"no checksum on purpose": packet(1, 2), "cut short": packet()[:47], "empty": {}, "IPv4": append([]byte{0x45}, make([]byte, 60)...),
	}
	tcp := packet(0, 0)
	tcp[6] = 6
	others["TCP"] = tcp
	for name, p := range others {
		want := bytes.Clone(p)
		if mendChecksum(p); !bytes.Equal(p, want) {
			t.Errorf("%s: changed to %x", name, p)
		}
	}
}

func FuzzMendChecksum(f *testing.F) {
	f.Add([]byte{0x60})
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		if mendChecksum(p); len(p) > 48 && !bytes.Equal(p[:46], before[:46]) {
			t.Errorf("%x became %x", before, p)
		}
	})
}
