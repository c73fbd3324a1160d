package v3

// The names here stand for string and int. They carry the markers that the CRDs say of such values, once for
// all fields of the sort; what the markers say is what the rules of rules.go say. Where a name does not say
// otherwise an empty value is the same as none. Lengths bound what a rule may cost the API server.

// ipv4Text is an IPv4 address.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) && ip(self).family() == 4",message="want an IPv4 address such as 192.0.2.1"
type ipv4Text = string

// ipv6Text is an IPv6 address.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) && ip(self).family() == 6",message="want an IPv6 address such as 2001:db8::1"
type ipv6Text = string

// ipText is an address, which must be there.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="isIP(self)",message="want an IPv4 or IPv6 address such as 192.0.2.1"
type ipText = string

// optionalIPText is an address.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self)",message="want an IPv4 or IPv6 address such as 192.0.2.1"
type optionalIPText = string

// rangeText is an address or a CIDR, which must be there. Bits behind the prefix length are allowed.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="isIP(self) || isCIDR(self)",message="want an IPv4 or IPv6 address or CIDR such as 192.0.2.0/24"
type rangeText = string

// optionalRangeText is an address or a CIDR.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) || isCIDR(self)",message="want an IPv4 or IPv6 address or CIDR such as 192.0.2.0/24"
type optionalRangeText = string

// ruleRangeText is rangeText where there may be half a million of them in one policy: a pattern is not counted as
// cost, a rule is.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:Pattern=`^(((25[0-5]|(2[0-4]|1[0-9]|[1-9]|)[0-9])\.){3}(25[0-5]|(2[0-4]|1[0-9]|[1-9]|)[0-9])(/([0-9]|[12][0-9]|3[0-2]))?|(([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,7}:|([0-9a-fA-F]{1,4}:){1,6}:[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,5}(:[0-9a-fA-F]{1,4}){1,2}|([0-9a-fA-F]{1,4}:){1,4}(:[0-9a-fA-F]{1,4}){1,3}|([0-9a-fA-F]{1,4}:){1,3}(:[0-9a-fA-F]{1,4}){1,4}|([0-9a-fA-F]{1,4}:){1,2}(:[0-9a-fA-F]{1,4}){1,5}|[0-9a-fA-F]{1,4}:((:[0-9a-fA-F]{1,4}){1,6})|:((:[0-9a-fA-F]{1,4}){1,7}|:))(/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?)$`
type ruleRangeText = string

// ruleNameText is a DNS subdomain where there may be as many.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
type ruleNameText = string

// ipv4RangeText is an IPv4 address or CIDR, which must be there.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4 || isCIDR(self) && cidr(self).ip().family() == 4",message="want an IPv4 address or CIDR such as 192.0.2.0/24"
type ipv4RangeText = string

// maskedText is a CIDR without bits behind its prefix length, which must be there.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="want a CIDR with no bit set after its prefix length, such as 10.244.0.0/16"
type maskedText = string

// blockText is the range of a block, which must be there.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked() && cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 20 : 116)",message="want the CIDR of a block: no bit set after its prefix length, which is 20 or more for IPv4, 116 or more for IPv6"
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot change: it is the block's identity"
type blockText = string

// nodeIPv4Text is an underlay address, with or without the prefix length of its subnet.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) && ip(self).family() == 4 && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast()) || isCIDR(self) && cidr(self).ip().family() == 4 && (cidr(self).ip().isGlobalUnicast() || cidr(self).ip().isLinkLocalUnicast())",message="want an IPv4 address that other nodes can reach, with the prefix length of its subnet: 192.0.2.1/24"
type nodeIPv4Text = string

// nodeIPv6Text is an underlay address, with or without the prefix length of its subnet.
//
// +kubebuilder:validation:MaxLength=49
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) && ip(self).family() == 6 && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast()) || isCIDR(self) && cidr(self).ip().family() == 6 && (cidr(self).ip().isGlobalUnicast() || cidr(self).ip().isLinkLocalUnicast())",message="want an IPv6 address that other nodes can reach, with the prefix length of its subnet: 2001:db8::1/64"
type nodeIPv6Text = string

// macText is the Ethernet address of one station.
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self.matches('^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$')",message="want six octets, the first of them even, such as 66:01:02:03:04:05"
type macText = string

// keyText is a WireGuard key.
//
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$') && self != 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='",message="want 32 bytes in base64, not all zero: 44 characters"
type keyText = string

// nameText is a DNS subdomain.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="want a DNS subdomain: lower-case letters, digits, '-' and '.', a letter or digit at both ends of each part"
type nameText = string

// labelText is a DNS label.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="want a DNS label: lower-case letters, digits and '-', a letter or digit at both ends"
type labelText = string

// selectorText is a selector of nodes or namespaces. Whether it parses only the Go rules can tell: the
// grammar is not a regular one.
//
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self != 'global()'",message="global() matches nothing here, want all() for everything"
type selectorText = string

// ruleSelectorText is a selector of endpoints.
//
// +kubebuilder:validation:XValidation:rule="self != 'global()'",message="global() stands in a rule's namespaceSelector only, want all() for everything"
type ruleSelectorText = string

// interfaceText is the name of an interface.
//
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-zA-Z0-9_.-]*$')",message="want an interface name: 1 to 15 letters, digits, '_', '.' and '-'"
type interfaceText = string

// wildInterfaceText is the name of an interface, or the beginning of one with + behind it.
//
// +kubebuilder:validation:MaxLength=16
// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self.matches('^[a-zA-Z0-9_.:-]{1,15}[+]?$')",message="want an interface name, with + for the rest of it"
type wildInterfaceText = string

// portNameText is the name of a port.
//
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-zA-Z0-9_.-]*$')",message="want a port name: 1 to 128 letters, digits, '_', '.' and '-'"
type portNameText = string

// regexpText is a regular expression (RE2).
//
// +kubebuilder:validation:MaxLength=4096
// +kubebuilder:validation:XValidation:rule="'x'.matches(self) in [true, false]",message="want a regular expression"
type regexpText = string

// communityText is a BGP community.
//
// +kubebuilder:validation:MaxLength=40
// +kubebuilder:validation:Pattern=`^(0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]):0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])|0*([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5]):0*([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5]):0*([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5]))$`
type communityText = string

// timeoutText is how long an entry of a table lives.
//
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:XValidation:rule="self == 'Auto' || duration(self) >= duration('0s')",message="want Auto, or a duration such as 90s"
type timeoutText = string

// mtu4 is the MTU of what carries IPv4.
//
// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 576 && self <= 65535",message="want 0 to compute it, or 576 to 65535"
type mtu4 = int

// mtu6 is the MTU of what carries IPv6.
//
// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1280 && self <= 65535",message="want 0 to compute it, or 1280 to 65535"
type mtu6 = int
