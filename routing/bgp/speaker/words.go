package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"weft/routing"
)

// GoBGP tells of a session that is up what happens to it; of one that does not come up only its log tells
// why. logTap reads that log on its way, and makes words of it.
type logTap struct {
	next slog.Handler
	down func() bool // some session is not up: only then is there a reason to look for
	peer netip.Addr  // whose messages these are
	said func(peer netip.Addr, message string, attrs map[string]string)
}

// tapped are the messages that are read, also below the level of the log.
var tapped = map[string]bool{
	"failed to connect": true, closedSilently: true, sentNotification: true, receivedNotification: true,
	"Session will be reset due to malformed BGP Header": true, "Session will be reset due to malformed BGP message": true,
	"Session will be reset due to malformed BGP update message": true, "the received Update message was treated as withdraw": true,
	"Some attributes were discarded": true, "hold timer expired": true, "prefix limit reached": true, "failed to set md5": true,
	bfdExpired: true, bfdRemote: true,
}

// What GoBGP says when a peer that was connected to does not answer the OPEN, and of NOTIFICATIONs.
const (
	closedSilently       = "outgoing connection IO error"
	sentNotification     = "sent notification"
	receivedNotification = "received notification"
)

// What GoBGP says when a BFD session goes down, before it ends the BGP session.
const (
	bfdExpired = "Expired"
	bfdRemote  = "Remote peer signaled BFD down"
)

// Enabled is true for all that may be tapped. Some of it is below the level of the log; and a speaker of
// many routes says much there, which costs more than the routes do.
func (t *logTap) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || t.down() || t.next.Enabled(ctx, l)
}

// Handle reads a message and hands it on where its level is logged.
func (t *logTap) Handle(ctx context.Context, r slog.Record) error {
	if tapped[r.Message] {
		attrs := map[string]string{}
		r.Attrs(func(a slog.Attr) bool {
			attrs[a.Key] = a.Value.String()
			return true
		})
		of := attrs["Key"]
		if attrs["Topic"] == "bfd" {
			of = attrs["Peer"]
		}
		if t.peer.IsValid() {
			t.said(t.peer, r.Message, attrs)
		} else if a, err := netip.ParseAddr(of); err == nil {
			t.said(a, r.Message, attrs)
		}
	}
	if t.next.Enabled(ctx, r.Level) {
		return t.next.Handle(ctx, r)
	}
	return nil
}

// WithAttrs notes whose messages these are.
func (t *logTap) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *t
	n.next = t.next.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == "Key" {
			if p, err := netip.ParseAddr(a.Value.String()); err == nil {
				n.peer = p
			}
		}
	}
	return &n
}

// WithGroup keeps what is known.
func (t *logTap) WithGroup(name string) slog.Handler {
	n := *t
	n.next = t.next.WithGroup(name)
	return &n
}

// explain returns what a message of the log means for a session; empty for nothing new. bad tells of what
// TCP-MD5 signatures have come of late.
func explain(s routing.Session, message string, attrs map[string]string, bad badMD5) string {
	to := fmt.Sprintf("%v port %d", s.Peer, port(s))
	from := ""
	if s.Source.IsValid() {
		from = " from " + s.Source.String()
	}
	switch message {
	case "failed to connect":
		return explainConnect(s, to, from, attrs["Error"], bad)
	case closedSilently:
		return fmt.Sprintf("%s accepted the TCP connection%s and closed it without a word: is this host's address configured as a neighbour there?", to, from)
	case sentNotification:
		if attrs["Code"] == "4" {
			return explainSilence(s)
		}
		return explainSent(s, attrs["Code"], attrs["Subcode"], attrs["Communicated-Reason"])
	case receivedNotification:
		return explainReceived(s, attrs["Code"], attrs["Subcode"], attrs["Communicated-Reason"])
	case "hold timer expired":
		return explainSilence(s)
	case "prefix limit reached":
		return fmt.Sprintf("%v announced more than the %d prefixes that it may: raise maxPrefixes or filter there; next try in %v", s.Peer, s.MaxPrefixes, limitPause)
	case "failed to set md5":
		return fmt.Sprintf("the kernel did not take the password of %v: %s", s.Peer, attrs["Err"])
	}
	if e := attrs["Error"]; e != "" && strings.HasPrefix(message, "Session will be reset") {
		return fmt.Sprintf("%v sent a message that cannot be understood, so the session was reset: %s", s.Peer, e)
	}
	return ""
}

func explainSilence(s routing.Session) string {
	text := fmt.Sprintf("nothing came from %v for the hold time: look at the link to it, and whether its BGP speaker still runs", s.Peer)
	if s.TTLSecurityHops > 0 {
		text += "; or it is more hops away than TTL security allows"
	}
	return text
}

func explainConnect(s routing.Session, to, from, err string, bad badMD5) string {
	tried := "TCP connection to " + to + from + ": "
	switch {
	case s.Passive:
		return ""
	case strings.Contains(err, "connection refused"):
		return tried + "refused: no BGP speaker listens there, or a firewall refuses; look at the peer's address and port, and whether its speaker runs"
	case strings.Contains(err, "unreachable"), strings.Contains(err, "no route to host"):
		return tried + "unreachable: this host has no route to it, or nobody answers for the address on the link; look at `ip route get " + s.Peer.WithZone("").String() + "`, the address and the cable"
	case strings.Contains(err, "cannot assign requested address"):
		return tried + "this host does not have the source address"
	case strings.Contains(err, "timeout"), strings.Contains(err, "deadline"):
		switch {
		case s.Password != "" && bad.wrong:
			return tried + "no answer, and segments with a wrong TCP-MD5 signature came: the two ends have different passwords"
		case s.Password != "" && bad.missing:
			return tried + "no answer, and segments without a TCP-MD5 signature came: the peer has no password for this host"
		case s.Password != "":
			return tried + "no answer: a different or no password at the other end has that effect (nstat there: TcpExtTCPMD5Failure, TcpExtTCPMD5NotFound), a firewall too"
		case bad.unexpected:
			return tried + "no answer: look at firewalls on the way; and segments with a TCP-MD5 signature that this host does not expect came from somebody: does the peer have a password for this host?"
		case s.TTLSecurityHops > 0:
			return tried + "no answer: a firewall, or more hops to the peer than TTL security allows"
		}
		return tried + "no answer: look at firewalls on the way, and whether the peer wants a password or TTL security"
	}
	return tried + err
}

// explainSent is about what this host refused.
func explainSent(s routing.Session, code, sub, reason string) string {
	switch {
	case code == "2" && sub == "2":
		return fmt.Sprintf("%v says that its AS is another than %d (NOTIFICATION Bad Peer AS sent): correct the AS number here or there", s.Peer, s.ASN)
	case code == "2" && sub == "3":
		return fmt.Sprintf("%v has the same BGP identifier as this host (NOTIFICATION Bad BGP Identifier sent): give one of them another router id", s.Peer)
	case code == "5":
		return fmt.Sprintf("%v refused this host while the session was set up: look at the AS number %d and the address that it has for this host", s.Peer, s.LocalASN)
	case code == "6" && strings.Contains(reason, "BFD"):
		return fmt.Sprintf("BFD found that %v cannot be reached any more: look at the link to it", s.Peer)
	case code == "6":
		return ""
	}
	return fmt.Sprintf("session with %v ended by this host: %s", s.Peer, notification(code, sub))
}

func explainReceived(s routing.Session, code, sub, reason string) string {
	if reason != "" {
		reason = fmt.Sprintf(" (%q)", reason)
	}
	if code == "2" && sub == "2" {
		return fmt.Sprintf("%v expects another AS than %d of this host (NOTIFICATION Bad Peer AS received): correct the AS number here or there", s.Peer, s.LocalASN)
	}
	return fmt.Sprintf("%v ended the session: %s%s", s.Peer, notification(code, sub), reason)
}

// notification names a NOTIFICATION as RFC 4271 and RFC 4486 do.
func notification(code, sub string) string {
	names := map[string]string{
		"1": "message header error", "2": "OPEN message error", "3": "UPDATE message error", "4": "hold timer expired",
		"5": "finite state machine error", "6": "cease",
	}
	cease := map[string]string{
		"1": "maximum number of prefixes reached", "2": "administrative shutdown", "3": "peer de-configured",
		"4": "administrative reset", "5": "connection rejected", "6": "other configuration change",
		"7": "connection collision resolution", "8": "out of resources", "9": "hard reset", "10": "BFD down",
	}
	text := "NOTIFICATION " + names[code]
	if code == "6" && cease[sub] != "" {
		return text + ", " + cease[sub]
	}
	return fmt.Sprintf("%s (%s/%s)", text, code, sub)
}

func port(s routing.Session) uint16 {
	if s.Port == 0 {
		return 179
	}
	return s.Port
}

// onLog takes what the log says of a peer.
func (sp *speaker) onLog(peer netip.Addr, message string, attrs map[string]string) {
	s, ok := sp.session(peer)
	if !ok {
		return
	}
	switch message {
	case "prefix limit reached":
		go sp.pause(peer) // GoBGP waits for this message to be logged
	case bfdExpired, bfdRemote:
		// Where there is no session to end, GoBGP would end the next one as soon as it is up.
		if sp.hub.state(peer) != Established {
			go sp.renew(peer, "BFD went down before it was up")
		}
		return
	}
	text := explain(s, message, attrs, sp.md5.recent())
	sp.hub.changePeer(peer, func(p *Peer) {
		switch message {
		case "the received Update message was treated as withdraw", "Some attributes were discarded",
			"Session will be reset due to malformed BGP Header", "Session will be reset due to malformed BGP message",
			"Session will be reset due to malformed BGP update message":
			p.Malformed++
		}
		p.explain(text, message == sentNotification || message == receivedNotification, message == closedSilently)
	})
}

// explain notes why the session is not up. notified tells that a NOTIFICATION said so; silent, that the peer said nothing.
func (p *Peer) explain(text string, notified, silent bool) {
	if text == "" || p.notified && silent {
		return
	}
	p.notified = notified
	if p.LastError != text {
		p.LastError, p.ErrorAt = text, time.Now()
	}
}
