package v3

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft/model/selector"
)

// The rules here take a path and a value and return what is wrong with it; the empty value is left
// to the caller unless the name says otherwise.

// family restricts an address rule: 4, 6, or 0 for both.
type family int

func (f family) String() string {
	if f == 0 {
		return "IPv4 or IPv6"
	}
	return fmt.Sprintf("IPv%d", int(f))
}

func (f family) admits(a netip.Addr) bool { return f == 0 || (f == 4) == a.Is4() }

func (f family) exampleAddr() string {
	if f == 6 {
		return "2001:db8::1"
	}
	return "192.0.2.1"
}

func (f family) exampleCIDR() string {
	if f == 6 {
		return "2001:db8::/64"
	}
	return "192.0.2.0/24"
}

func invalid(path *field.Path, v any, format string, args ...any) field.ErrorList {
	return field.ErrorList{field.Invalid(path, v, fmt.Sprintf(format, args...))}
}

// checkAddr wants an address without prefix length and zone.
func checkAddr(path *field.Path, s string, f family) field.ErrorList {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() || !f.admits(a) {
		return invalid(path, excerpt(s), "want an %s address such as %s", f, f.exampleAddr())
	}
	return nil
}

// parseCIDR reads a prefix; host bits are allowed.
func parseCIDR(path *field.Path, s string, f family) (netip.Prefix, field.ErrorList) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() || !f.admits(p.Addr()) {
		return netip.Prefix{}, invalid(path, excerpt(s), "want an %s CIDR such as %s", f, f.exampleCIDR())
	}
	return p, nil
}

// checkMaskedCIDR wants a prefix without host bits.
func checkMaskedCIDR(path *field.Path, s string, f family) (netip.Prefix, field.ErrorList) {
	p, errs := parseCIDR(path, s, f)
	if errs == nil && p != p.Masked() {
		return netip.Prefix{}, invalid(path, s, "has bits set after its prefix length, want %s", p.Masked())
	}
	return p, errs
}

// checkAddrOrCIDR wants either; an address stands for its /32 or /128.
func checkAddrOrCIDR(path *field.Path, s string, f family) (netip.Prefix, field.ErrorList) {
	if strings.Contains(s, "/") {
		return parseCIDR(path, s, f)
	}
	if errs := checkAddr(path, s, f); errs != nil {
		return netip.Prefix{}, invalid(path, excerpt(s), "want an %s address or CIDR such as %s", f, f.exampleCIDR())
	}
	a := netip.MustParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// checkCIDRs checks a list of addresses or CIDRs.
func checkCIDRs(path *field.Path, list []string, f family) field.ErrorList {
	var errs field.ErrorList
	for i, s := range list {
		_, e := checkAddrOrCIDR(path.Index(i), s, f)
		errs = append(errs, e...)
	}
	return errs
}

// checkMAC wants the address of one station in the usual form.
func checkMAC(path *field.Path, s string) field.ErrorList {
	octets := strings.Split(s, ":")
	ok := len(octets) == 6
	for _, o := range octets {
		_, err := strconv.ParseUint(o, 16, 8)
		ok = ok && len(o) == 2 && err == nil
	}
	if !ok {
		return invalid(path, excerpt(s), "want six octets such as 66:01:02:03:04:05")
	}
	if first, _ := strconv.ParseUint(octets[0], 16, 8); first&1 == 1 {
		return invalid(path, s, "is a group address, want that of one station: an even first octet")
	}
	return nil
}

// checkEnum wants one of allowed, exactly.
func checkEnum[T ~string](path *field.Path, v T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, v) {
		return nil
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	if i := slices.IndexFunc(names, func(s string) bool { return strings.EqualFold(s, string(v)) }); i >= 0 {
		return invalid(path, excerpt(string(v)), "want %s: case matters", names[i])
	}
	return invalid(path, excerpt(string(v)), "want one of %s", strings.Join(names, ", "))
}

// checkEnumFold wants one of allowed in any case.
func checkEnumFold(path *field.Path, v string, allowed ...string) field.ErrorList {
	if slices.ContainsFunc(allowed, func(s string) bool { return strings.EqualFold(s, v) }) {
		return nil
	}
	return invalid(path, excerpt(v), "want one of %s", strings.Join(allowed, ", "))
}

func checkRange[T ~int | ~int64 | ~uint16](path *field.Path, v, low, high T) field.ErrorList {
	if low <= v && v <= high {
		return nil
	}
	return invalid(path, int64(v), "want %d to %d", low, high)
}

// maxSelector is the most bytes of the selector of a pool or a configuration.
const maxSelector = 1024

// checkSelector wants a selector that can match what it is matched with: global() matches what is
// in no namespace, and so never nodes and namespaces.
func checkSelector(path *field.Path, s string) field.ErrorList {
	if len(s) > maxSelector {
		return field.ErrorList{field.TooLong(path, len(s), maxSelector)}
	}
	sel, err := selector.Parse(s)
	if err != nil {
		return invalid(path, excerpt(s), "%v", err)
	}
	if sel.Global() {
		return invalid(path, s, "global() matches nothing here, want all() for everything")
	}
	return nil
}

// checkRegexp wants a regular expression as Go has them (RE2).
func checkRegexp(path *field.Path, s string) field.ErrorList {
	if _, err := regexp.Compile(s); err != nil {
		return invalid(path, excerpt(s), "want a regular expression: %v", err)
	}
	return nil
}

// checkPattern wants the whole of s to match pattern, which want puts in words.
func checkPattern(path *field.Path, s, pattern, want string) field.ErrorList {
	if regexp.MustCompile(pattern).MatchString(s) {
		return nil
	}
	return invalid(path, excerpt(s), "want %s", want)
}

// isName tells whether s has 1 to most letters, digits, "_", "." and "-". Endpoints come by the
// hundred thousand: this needs no regular expression.
func isName(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}

// maxInterfaceName is the kernel's IFNAMSIZ without the terminating zero.
const maxInterfaceName = 15

func checkInterface(path *field.Path, s string) field.ErrorList {
	if isName(s, maxInterfaceName) {
		return nil
	}
	return invalid(path, excerpt(s), `want an interface name: 1 to %d letters, digits, "_", "." and "-"`, maxInterfaceName)
}

// IsInterfaceName tells whether s can stand where a resource names an interface; the kernel allows more.
func IsInterfaceName(s string) bool { return isName(s, maxInterfaceName) }

func checkPortName(path *field.Path, s string) field.ErrorList {
	const most = 128
	if isName(s, most) {
		return nil
	}
	return invalid(path, excerpt(s), `want a port name: 1 to %d letters, digits, "_", "." and "-"`, most)
}

// checkProtocol wants the name or number of an IP protocol.
func checkProtocol(path *field.Path, p intstr.IntOrString) field.ErrorList {
	names := []string{"TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"}
	if p.Type == intstr.Int {
		if p.IntVal < 1 || p.IntVal > 255 {
			return invalid(path, int64(p.IntVal), "want 1 to 255, or one of %s", strings.Join(names, ", "))
		}
		return nil
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil && n >= 1 && n <= 255 {
		return nil
	}
	if slices.ContainsFunc(names, func(s string) bool { return strings.EqualFold(s, p.StrVal) }) {
		return nil
	}
	return invalid(path, excerpt(p.StrVal), "want 1 to 255, or one of %s", strings.Join(names, ", "))
}

// checkPortRange wants a port, or two with a colon between them, the lower first.
func checkPortRange(path *field.Path, p intstr.IntOrString, lowest int) field.ErrorList {
	if first, _, err := ParsePortRange(p); err != nil || int(first) < lowest {
		return invalid(path, excerpt(p.String()), "want a port from %d to 65535, or two such as 20000:29999", lowest)
	}
	return nil
}

// ParsePortRange reads a port, or two with a colon between them, the lower first.
func ParsePortRange(p intstr.IntOrString) (first, last uint16, err error) {
	low, high, isRange := strings.Cut(p.String(), ":")
	if !isRange {
		high = low
	}
	from, errFrom := strconv.ParseUint(low, 10, 16)
	to, errTo := strconv.ParseUint(high, 10, 16)
	if errFrom != nil || errTo != nil || from > to {
		return 0, 0, fmt.Errorf("port range %q: want a port from 0 to 65535, or two such as 20000:29999", excerpt(p.String()))
	}
	return uint16(from), uint16(to), nil
}

// dscpNames are the code points that have names (RFC 2474, 2597, 3246, 5865).
func dscpNames() []string {
	return []string{"DF", "EF", "VA", "CS0", "CS1", "CS2", "CS3", "CS4", "CS5", "CS6", "CS7",
		"AF11", "AF12", "AF13", "AF21", "AF22", "AF23", "AF31", "AF32", "AF33", "AF41", "AF42", "AF43"}
}

func checkDSCP(path *field.Path, v intstr.IntOrString) field.ErrorList {
	n := int(v.IntVal)
	if v.Type == intstr.String {
		if slices.ContainsFunc(dscpNames(), func(s string) bool { return strings.EqualFold(s, v.StrVal) }) {
			return nil
		}
		var err error
		if n, err = strconv.Atoi(v.StrVal); err != nil {
			n = -1
		}
	}
	if n < 0 || n > 63 {
		return invalid(path, excerpt(v.String()), "want 0 to 63, or a name such as AF11, CS1, EF")
	}
	return nil
}

// checkKey wants a WireGuard key: 32 bytes in base64.
func checkKey(path *field.Path, s string) field.ErrorList {
	if b, err := base64.StdEncoding.Strict().DecodeString(s); err != nil || len(b) != 32 || len(s) != 44 {
		return invalid(path, excerpt(s), "want 32 bytes in base64: 44 characters")
	} else if [32]byte(b) == [32]byte{} {
		return invalid(path, excerpt(s), "want a key that is not all zero")
	}
	return nil
}
