package cni

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/internal/kernel"
	"weft/model"
)

func sha11(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])[:11]
}

func testAttachment(container, pod, ip string) attachment {
	a := attachment{Network: "weft", ContainerID: container, IfName: "eth0", Namespace: "default", Pod: pod, MTU: 1450,
		MAC: "02:00:00:00:00:01", Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Handle: "weft." + container,
		Record: recordName("n1", "k8s", pod, "eth0"), State: stateReady, Boot: "b", Created: time.Unix(1700000000, 0).UTC()}
	a.Device = kernel.PodDeviceName(a.id())
	return a
}

func compareAddr() cmp.Option { return cmp.Comparer(func(a, b netip.Addr) bool { return a == b }) }

func TestJournalSurvives(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRegistry(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, b := testAttachment("c1", "p1", "10.0.0.1"), testAttachment("c2", "p2", "fd00::2")
	for _, x := range []attachment{a, b} {
		if err := r.save(x); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = OpenRegistry(dir, nil); err != nil {
		t.Fatal(err)
	}
	got, _ := r.get(a.key())
	if diff := cmp.Diff(&a, got, compareAddr()); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if n := len(r.Endpoints()); n != 0 {
		t.Errorf("%d endpoints before anybody looked whether their links exist", n)
	}
	gone := r.adopt(map[string]kernel.Link{a.Device: {}})
	if len(gone) != 1 || gone[0].ContainerID != "c2" {
		t.Errorf("got %v gone, want c2", gone)
	}
	want := map[model.EndpointID]model.Endpoint{a.id(): {ID: a.id(), Device: a.Device, Addresses: a.Addresses, MAC: model.MAC{2, 0, 0, 0, 0, 1}}}
	if diff := cmp.Diff(want, r.Endpoints(), compareAddr()); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if !r.InUse(a.Addresses[0]) || r.InUse(netip.MustParseAddr("10.0.0.9")) {
		t.Error("InUse is wrong")
	}
	for range 2 {
		if err := r.remove(a.key()); err != nil {
			t.Error(err)
		}
	}
	if entries, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(entries) != 1 {
		t.Errorf("got %v, want one entry", entries)
	}
}

// A later state is a further line, and the last one counts; the file stays small.
func TestJournalLastLineCounts(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRegistry(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := testAttachment("c1", "p1", "10.0.0.1")
	const writes = 300
	for i := range writes {
		a.MTU = 1280 + i
		if err := r.save(a); err != nil {
			t.Fatal(err)
		}
		if i > 2 && i != writes-1 {
			continue
		}
		again, err := OpenRegistry(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, there := again.get(a.key()); !there || got.MTU != a.MTU {
			t.Errorf("after %d writes the journal has %+v, want MTU %d", i+1, got, a.MTU)
		}
	}
	st, err := os.Stat(filepath.Join(dir, a.key().file()))
	if err != nil || st.Size() > maxJournalFile {
		t.Errorf("after %d writes: %v, %v", writes, st.Size(), err)
	}
	if err := os.Remove(filepath.Join(dir, a.key().file())); err != nil { // by somebody else
		t.Fatal(err)
	}
	if err := r.save(a); err != nil {
		t.Error(err)
	}
}

// Every kind of damage costs the one entry that has it.
func TestDamagedEntries(t *testing.T) {
	a := testAttachment("c1", "p1", "10.0.0.1")
	whole, err := encodeJournal(&a)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 1
	other := a
	other.ContainerID = "c9"
	wrongName, _ := encodeJournal(&other)
	bad := a
	bad.Device = "eth0"
	wrongDevice, _ := encodeJournal(&bad)
	for name, content := range map[string][]byte{
		"empty": {}, "cut short": whole[:len(whole)/2], "flipped bit": flipped, "no JSON": []byte("x"), "another's": wrongName,
		"a device that is not ours": wrongDevice, "huge": make([]byte, maxJournalFile+1), "two values": append(bytes.TrimSpace(whole), whole...),
		"second line cut short": append(append([]byte(nil), whole...), whole[:len(whole)/2]...),
		"second line flipped":   append(append([]byte(nil), whole...), flipped...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			good := testAttachment("good", "p2", "10.0.0.2")
			r, err := OpenRegistry(dir, nil)
			if err == nil {
				err = r.save(good)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, a.key().file()), content, 0o600)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, ".left-by-a-crash"), content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if r, err = OpenRegistry(dir, nil); err != nil {
				t.Fatal(err)
			}
			if n := len(r.list()); n != 1 {
				t.Errorf("got %d attachments, want the good one", n)
			}
			if q, err := r.Quarantined(); err != nil || !cmp.Equal(q, []string{a.key().file()}) {
				t.Errorf("got quarantined %v, %v", q, err)
			}
			if _, err := os.Stat(filepath.Join(dir, ".left-by-a-crash")); err == nil {
				t.Error("an unfinished file stays")
			}
		})
	}
}

func FuzzJournal(f *testing.F) {
	a := testAttachment("c1", "p1", "10.0.0.1")
	whole, err := encodeJournal(&a)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"checksum":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`))
	f.Add([]byte(`{"checksum":"","attachment":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeJournal(b)
		if err != nil {
			return
		}
		again, err := encodeJournal(a)
		if err != nil {
			t.Fatal(err)
		}
		c, err := decodeJournal(again)
		if err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
		if diff := cmp.Diff(a, c, compareAddr()); diff != "" {
			t.Error(diff)
		}
	})
}
