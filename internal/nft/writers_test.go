package nft

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
)

// The filter drops what carries one of the ports, whichever of up to 255 it is, and takes everything else.
func TestWithout(t *testing.T) {
	for _, n := range []int{0, 1, 2, maxWriters} {
		var ports []uint32
		for i := range n {
			ports = append(ports, uint32(i+1)*0x01010101)
		}
		raw, err := without(ports)
		if err != nil {
			t.Fatal(err)
		}
		program, _ := bpf.Disassemble(raw)
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		takes := func(port uint32) bool {
			message := make([]byte, 40)
			binary.NativeEndian.PutUint32(message[12:], port)
			n, err := vm.Run(message)
			if err != nil {
				t.Fatal(err)
			}
			return n >= len(message)
		}
		for _, p := range ports {
			if takes(p) {
				t.Errorf("of %d ports: an event of port %#x gets through", n, p)
			}
		}
		for _, p := range []uint32{0, 7, 0x12345678} {
			if !takes(p) {
				t.Errorf("of %d ports: an event of another's port %#x does not get through", n, p)
			}
		}
	}
}
