package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"

	"weft/internal/kernel"
	"weft/model"
	"weft/policy"
)

// prefix begins the name of every chain and set that is ours.
const prefix = "weft-"

// Limits of the kernel: XT_EXTENSION_MAXNAMELEN and IPSET_MAXNAMELEN, each less its final zero, and
// IFNAMSIZ.
const (
	maxChainName = 28
	maxSetName   = 31
	maxDevice    = 15
	maxLogPrefix = 63  // of the NFLOG target, in legacy tables
	maxComment   = 120 // of 255 that the comment match takes
)

// Marks, of the bits that kernel.PolicyMark gives us. All are clear again when a packet leaves
// our chains for good.
const (
	markAllow   = 0x01000000 // the hook allowed it
	markPass    = 0x02000000 // the tier was left by Pass
	markDecided = 0x04000000 // an untracked or pre-DNAT policy decided for the host endpoint
	markAll     = kernel.PolicyMark
)

// short is a hash that nobody who names things can make collide (80 bits of SHA-256).
func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}

// chainName is the chain of a policy or profile.
func chainName(id policy.ChainID) string { return prefix + "p-" + short(string(id)) }

// setName is the ipset of a Program's set, such as weft-4s-... and weft-6p-... (with ports).
func setName(id policy.SetID) string {
	kind := "s"
	if id.HasPorts() {
		kind = "p"
	}
	meaning := fmt.Sprintf("%d %d %q %q %t", id.Kind, id.Family, id.Selector, id.Name, id.Local)
	return prefix + digit(id.Family) + kind + "-" + short(meaning)
}

// listName is the ipset of the prefixes that a rule lists.
func listName(f model.Family, nets []netip.Prefix) string {
	var b strings.Builder
	for _, n := range nets {
		b.WriteString(n.String() + " ")
	}
	return prefix + digit(f) + "n-" + short(b.String())
}

func digit(f model.Family) string { return fmt.Sprint(int(f)) }

// podChain is the chain of a pod's device: kind and the device's name without what all have in
// common.
func podChain(kind, device string) string {
	return prefix + kind + "-" + strings.TrimPrefix(device, kernel.PodLinkPrefix)
}

// hostChain is the chain of an interface with a host endpoint; "*" is "any".
func hostChain(kind, iface string) string {
	switch {
	case iface == "*":
		iface = "any"
	case iface == "any" || strings.ContainsFunc(iface, func(c rune) bool { return !plain(c) || c == '/' || c == ':' }):
		iface = short(iface)
	}
	return prefix + kind + "-" + iface
}

// podDevice tells whether a device is treated as a pod's by its name. The tunnel devices go on with a
// dash after what pods' devices begin with.
func podDevice(name string) bool {
	return strings.HasPrefix(name, kernel.PodLinkPrefix) && !strings.HasPrefix(name, prefix)
}

// possibleDevice tells whether the kernel can have a device of the name (dev_valid_name).
func possibleDevice(name string) bool {
	return name != "" && len(name) <= maxDevice && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}

// expressible tells whether a rule can name the device and nothing else: a + at the end would match
// all that begin so, and the rest a restore file could read as something else.
func expressible(name string) bool {
	return strings.IndexFunc(name, func(c rune) bool { return !plain(c) }) < 0 && name[0] != '-'
}

func plain(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._-/:", c)
}

// comment is a comment match with text, of which nothing can end the quotes or the line.
func comment(text string) string {
	text = strings.Map(func(c rune) rune {
		if plain(c) || strings.ContainsRune(" *@,=()", c) {
			return c
		}
		return '?'
	}, text)
	if len(text) > maxComment {
		text = text[:maxComment]
	}
	return `-m comment --comment "` + text + `"`
}

// Of what a line logs so many packets a second, and so many at once, are written to NFLOG: whoever can
// send packets would otherwise have this host do work for each. Other lines count all.
const logRate, logBurst = 10, 50

// logging is the target that logs a packet with its reason, within the limit.
func logging(t policy.Tag) string {
	return fmt.Sprintf(`-m limit --limit %d/second --limit-burst %d -j NFLOG --nflog-prefix "%s" --nflog-group %d`, logRate, logBurst, t, kernel.LogGroup)
}

func mark(value uint32) string { return fmt.Sprintf("-m mark --mark %#x/%#x", value, value) }

func unmarked(bits uint32) string { return fmt.Sprintf("-m mark --mark 0x0/%#x", bits) }

// setMark makes the bits of mask what they are in value.
func setMark(value, mask uint32) string {
	return fmt.Sprintf("-j MARK --set-xmark %#x/%#x", value, mask)
}
