package testkit

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"weft/internal/kernel"
)

// FRRDir is where Debian has the daemons of FRR.
const FRRDir = "/usr/lib/frr"

// HasVariable names the environment variable that lists, separated by commas, the features that
// this machine is known to have. Where one of them is found absent the test fails instead of being
// skipped, so that a broken probe cannot hide tests for ever. "all" stands for every feature.
const HasVariable = "WEFT_KERNEL_HAS"

// SkipMark begins what a test says that is skipped for want of a feature, whose name follows: testlog
// (internal/testkit/cmd/testlog) compares which tests were skipped on which machine.
const SkipMark = "SKIP-FEATURE"

// Feature is something of the machine that not every one has.
type Feature string

// The features that tests ask for.
const (
	Root      Feature = "root"  // uid 0 with CAP_SYS_ADMIN and CAP_NET_ADMIN
	Netns     Feature = "netns" // network namespaces can be made
	Veth      Feature = "veth"
	VXLAN     Feature = "vxlan"
	Bridge    Feature = "bridge"
	IPIP      Feature = "ipip"
	WireGuard Feature = "wireguard"
	IPv6      Feature = "ipv6"
	NFTables  Feature = "nftables"  // the nft binary and the inet family
	FlowTable Feature = "flowtable" // those of nftables
	IPRoute2  Feature = "iproute2"  // the ip and bridge binaries
	Iperf3    Feature = "iperf3"
	BIRD      Feature = "bird" // version 2
	FRR       Feature = "frr"  // its daemons below FRRDir
)

// RequireRoot skips the test where it does not run as root.
func RequireRoot(t testing.TB) { t.Helper(); Require(t, Root) }

// Require skips the test where a feature is absent, and says why; where the machine is known to
// have it the test fails instead.
func Require(t testing.TB, features ...Feature) {
	t.Helper()
	for _, f := range features {
		err := probe(t, f)
		if err == nil {
			continue
		}
		if known(f) {
			t.Fatalf("the probe for %s failed although %s says that this machine has it: %v", f, HasVariable, err)
		}
		t.Skipf("%s %s: not on this machine: %v (%s=%s turns this skip into a failure)", SkipMark, f, err, HasVariable, f)
	}
}

func known(f Feature) bool {
	has := strings.Split(os.Getenv(HasVariable), ",")
	return slices.Contains(has, string(f)) || slices.Contains(has, "all")
}

func probe(t testing.TB, f Feature) error {
	t.Helper()
	switch f {
	case Root:
		if os.Geteuid() != 0 {
			return errors.New("not root")
		}
		return nil
	case IPRoute2:
		return find("ip", "bridge")
	case Iperf3:
		return find("iperf3")
	case BIRD:
		return find("bird", "birdc")
	case FRR:
		return find("vtysh", FRRDir+"/zebra", FRRDir+"/bfdd", FRRDir+"/bgpd")
	case IPv6:
		_, err := os.Stat("/proc/sys/net/ipv6")
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the probe needs root")
	}
	return probeIn(t, f)
}

// probeIn tries a feature in a namespace of its own.
func probeIn(t testing.TB, f Feature) (err error) {
	t.Helper()
	name := namePrefix() + "probe"
	path, err := kernel.NewNamedNetns(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kernel.DeleteNamedNetns(name)) }()
	ns := NS{Name: name, Path: path}
	switch f {
	case Netns:
		return nil
	case NFTables:
		if err := find("nft"); err != nil {
			return err
		}
		_, err := Try(t, ns, "nft", "add table inet probe")
		return err
	case FlowTable:
		if err := find("nft"); err != nil {
			return err
		}
		_, err := TryInput(t, ns, "table inet probe { flowtable f { hook ingress priority 0; devices = { lo }; }; chain c { type filter hook forward priority 0; flow add @f; }; }", "nft", "-f", "-")
		if err != nil {
			return errors.New(strings.SplitN(err.Error(), "\n", 2)[0])
		}
		return nil
	case VXLAN:
		return probeLink(t, ns, f, "id", "1", "dstport", "4789")
	case IPIP:
		return probeLink(t, ns, f, "local", "192.0.2.1")
	case Veth, Bridge, WireGuard:
		return probeLink(t, ns, f)
	default:
		return errors.New("testkit has no probe of that name")
	}
}

// probeLink makes a link of the kind that the feature is called after.
func probeLink(t testing.TB, ns NS, kind Feature, options ...string) error {
	t.Helper()
	if err := find("ip"); err != nil {
		return err
	}
	_, err := Try(t, ns, append([]string{"ip", "link", "add", "probe0", "type", string(kind)}, options...)...)
	return err
}

func find(binaries ...string) error {
	for _, b := range binaries {
		if _, err := exec.LookPath(b); err != nil {
			return err
		}
	}
	return nil
}

// EmulatedVariable is 1 in the test machine (docs/testing.md), whose processors are emulated.
const EmulatedVariable = "WEFT_EMULATED"

// Emulated tells that the test runs on an emulated processor: what takes long there says nothing about
// a real one, and repeating it often takes minutes.
func Emulated() bool { return os.Getenv(EmulatedVariable) == "1" }

// Count is how often a test repeats something: n times, a tenth of that on an emulated processor.
func Count(n int) int {
	if Emulated() {
		return max(1, n/10)
	}
	return n
}
