package topology

import (
	"fmt"
	"slices"
	"strings"
)

// Profile says how much less than an uplink's own MTU a provider's network really carries:
// FelixConfiguration.mtuProfile names one.
type Profile struct {
	Name string
	// Most is the largest packet that arrives, in bytes; 0: no such limit.
	Most int
	// Taken is what the network takes off each packet for itself, in bytes.
	Taken int
	Why   string // one sentence
	// Source is where the provider says so.
	Source string
}

// Limit returns what an uplink of the given MTU really carries, in bytes.
func (p Profile) Limit(mtu int) int {
	mtu -= p.Taken
	if p.Most > 0 {
		mtu = min(mtu, p.Most)
	}
	return mtu
}

// Profiles returns the table of the providers, sorted by name. A network whose interfaces already
// have the right MTU needs none of them.
func Profiles() []Profile {
	return []Profile{
		{Name: "aws-transit-gateway", Most: 8500,
			Why:    "interfaces say 9001; between VPCs a transit gateway carries 8500",
			Source: "Amazon VPC Transit Gateways, Quotas, section MTU"},
		{Name: "azure", Taken: 100,
			Why:    "interfaces say 1500; the fabric takes 100 for itself and fragments or drops what is larger than 1400",
			Source: "Azure Virtual Network, TCP/IP performance tuning, section Azure and VM MTU"},
		{Name: "gcp", Most: 1460,
			Why:    "a VPC network carries 1460 unless it was set to more; images that ignore DHCP keep 1500",
			Source: "Google Cloud VPC, Maximum transmission unit"},
		{Name: "hetzner-cloud", Most: 1450,
			Why:    "private networks of cloud servers carry 1450",
			Source: "Hetzner Docs, Cloud, Networks, FAQ"},
		{Name: "hetzner-vswitch", Most: 1400,
			Why:    "a vSwitch between dedicated servers carries 1400; its VLAN interface has 1500 unless told",
			Source: "Hetzner Docs, Robot, vSwitch"},
		{Name: "openstack-vxlan", Taken: 50,
			Why:    "a tenant network over VXLAN takes 50 where its DHCP does not hand the smaller MTU out",
			Source: "OpenStack Networking Guide, MTU considerations"},
		{Name: "pppoe", Most: 1492,
			Why:    "PPPoE takes 8 of the 1500 of Ethernet",
			Source: "RFC 2516, section 7"},
	}
}

// ProfileByName returns a row of the table; the error names the rows that there are.
func ProfileByName(name string) (Profile, error) {
	all := Profiles()
	if i := slices.IndexFunc(all, func(p Profile) bool { return p.Name == name }); i >= 0 {
		return all[i], nil
	}
	return Profile{}, fmt.Errorf("no MTU profile is named %.63q; there are %s", name, strings.Join(ProfileNames(), ", "))
}

// ProfileNames returns the names of the table, sorted.
func ProfileNames() []string {
	var names []string
	for _, p := range Profiles() {
		names = append(names, p.Name)
	}
	return names
}
