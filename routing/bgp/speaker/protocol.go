package speaker

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"weft/routing"
)

// Interface is the version of what the node service relies on: arguments, socket, messages. A process of
// another version is not adopted but replaced, which neighbours with graceful restart do not notice.
const Interface = 3

// Request is one line of JSON that a client sends; exactly one field is set. A connection carries one
// request after the other, and nothing else once it watches.
type Request struct {
	Configure *State `json:"configure,omitempty"`
	Watch     bool   `json:"watch,omitempty"`
	Peers     bool   `json:"peers,omitempty"`
	// Without asks what would be lost.
	Without *Without `json:"without,omitempty"`
}

// Without is what is taken away: all that some peers told, and all that came by a reflector within the cluster.
type Without struct {
	Peers     []netip.Addr `json:"peers,omitempty"`
	Reflected bool         `json:"reflected,omitempty"`
}

// Lost is what there would be no route to, then.
type Lost struct {
	Count int          `json:"count"`
	First netip.Prefix `json:"first,omitzero"` // the lowest of them, IPv4 before IPv6
}

// State is all that the process is to do. A Speaker says no password, whatever prints it; they are beside it.
type State struct {
	Speaker   routing.Speaker       `json:"speaker"`
	Passwords map[netip.Addr]string `json:"passwords,omitempty"` // by Session.Peer
}

// Seal returns the State of a Speaker.
func Seal(s routing.Speaker) State {
	st := State{Speaker: s}
	for _, x := range s.Sessions {
		if x.Password != "" {
			if st.Passwords == nil {
				st.Passwords = map[netip.Addr]string{}
			}
			st.Passwords[x.Peer] = string(x.Password)
		}
	}
	return st
}

// Open returns the Speaker with its passwords.
func (s State) Open() routing.Speaker {
	sp := s.Speaker
	sp.Sessions = append([]routing.Session(nil), sp.Sessions...)
	for i, x := range sp.Sessions {
		sp.Sessions[i].Password = routing.Password(s.Passwords[x.Peer])
	}
	return sp
}

// Reply answers Configure, Peers and Without.
type Reply struct {
	Changes int      `json:"changes,omitempty"` // how many things Configure changed
	Errors  []string `json:"errors,omitempty"`
	Peers   []Peer   `json:"peers,omitempty"`
	Lost    *Lost    `json:"lost,omitempty"`
}

// Event is one line of what Watch is answered with: first everything there is, in as many events as need
// be, the last of which says Synced; then what changes.
type Event struct {
	Routes    []Routes     `json:"routes,omitempty"`
	Withdrawn Prefixes     `json:"withdrawn,omitempty"`
	Peers     []Peer       `json:"peers,omitempty"` // without the counts
	Gone      []netip.Addr `json:"gone,omitempty"`  // peers that are no longer configured
	Synced    bool         `json:"synced,omitempty"`
	// Settled says that every peer has told all it has since the process began (End-of-RIB), or had the
	// time for it: what an earlier process knew and this one does not is no more.
	Settled bool `json:"settled,omitempty"`
}

// Routes are learned routes that differ in their prefixes only.
type Routes struct {
	routing.Way
	Prefixes Prefixes `json:"prefixes"`
}

// Prefixes are one string of JSON, of prefixes with spaces between: of a hundred thousand, each counts.
type Prefixes []netip.Prefix

// MarshalText implements encoding.TextMarshaler.
func (p Prefixes) MarshalText() ([]byte, error) {
	text := make([]byte, 0, 20*len(p))
	for i, x := range p {
		if i > 0 {
			text = append(text, ' ')
		}
		text = x.AppendTo(text)
	}
	return text, nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Prefixes) UnmarshalText(text []byte) error {
	*p = make(Prefixes, 0, bytes.Count(text, []byte{' '})+1)
	for rest := string(text); rest != ""; {
		var one string
		one, rest, _ = strings.Cut(rest, " ")
		x, err := netip.ParsePrefix(one)
		if err != nil {
			return err
		}
		*p = append(*p, x)
	}
	return nil
}

// PeerState is the state of a session (RFC 4271, section 8.2.2).
type PeerState string

// The states of a session.
const (
	Idle        PeerState = "Idle"
	Connect     PeerState = "Connect"
	Active      PeerState = "Active"
	OpenSent    PeerState = "OpenSent"
	OpenConfirm PeerState = "OpenConfirm"
	Established PeerState = "Established"
)

// Peer is what there is to say about a session.
type Peer struct {
	Address  netip.Addr `json:"address"`
	Name     string     `json:"name,omitempty"` // Session.Name
	ASN      uint32     `json:"asn"`
	State    PeerState  `json:"state"`
	Since    time.Time  `json:"since"` // of the state
	RouterID netip.Addr `json:"routerID,omitzero"`
	EndOfRIB bool       `json:"endOfRIB,omitempty"` // it has told all it has
	BFD      string     `json:"bfd,omitempty"`      // Up, Down, ...; empty: not used
	Flaps    uint64     `json:"flaps,omitempty"`    // how often an established session ended
	// LastError is why the session is not established, or why the last one ended: what was tried, and what
	// to look at.
	LastError string    `json:"lastError,omitempty"`
	ErrorAt   time.Time `json:"errorAt,omitzero"`
	// notified tells that LastError is what a NOTIFICATION said, which a connection that is closed without a word
	// does not replace: after an error many a peer closes for a while what comes.
	notified bool
	// Received, Accepted and Sent count prefixes; only an answer to Request.Peers has them.
	Received, Accepted, Sent uint64
	// Malformed counts messages that were refused or taken for a withdrawal.
	Malformed uint64 `json:"malformed,omitempty"`
}
