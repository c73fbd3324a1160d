package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/node/status"
)

func peersCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "peers",
		Short: "Show the local node's WireGuard peers, and which traffic is not encrypted and why",
		Long: `Shows every other node with the WireGuard device that has it as a peer: where it is sent to, when
keys were last agreed on, the bytes from and to it, the addresses behind it, and how its pods are
reached, with the reason. A node that no device has is shown, too, with the reason. Bytes are those of the
device: with what WireGuard adds.

Lines have 160 columns at most, or what the terminal has; -o wide breaks none and has the public keys and all
addresses. Only what is to be encrypted is shown: see the families in "weft status".

` + whomLong + ` Of a cluster's nodes each is asked. With etcd there are their published keys only.`,
		Example: `  weft peers
  weft peers -o wide
  weft peers -o json`,
		Args: exactArgs(),
	}
	flags := addNodeFlags(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "output `format`: table, wide or json")
	fixedCompletion(c, "output", "table", "wide", "json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "table" && output != "wide" && output != "json" {
			return Usagef("unknown output format %q: want table, wide or json", output)
		}
		whom, err := flags.scope()
		if err != nil {
			return err
		}
		switch whom {
		case byStore:
			return storedPeers(cmd, flags, output)
		case here:
			body, err := nodeGet(cmd.Context(), flags.runDir, status.PeersPath)
			if err != nil {
				return err
			}
			return showPeers(cmd, flags.whose(), output, body)
		}
		body, answers, err := flags.askNodes(cmd.Context(), status.PeersPath)
		switch {
		case err != nil:
			return err
		case body != nil:
			return showPeers(cmd, flags.whose(), output, body)
		}
		return showAllPeers(cmd, output, answers)
	}
	return c
}

func showPeers(cmd *cobra.Command, whose, output string, body []byte) error {
	var doc struct {
		status.Peers
		Raw json.RawMessage `json:"peers"` // as it came
	}
	err := json.Unmarshal(body, &doc)
	if err == nil && doc.Raw != nil {
		err = json.Unmarshal(doc.Raw, &doc.Peers.Peers)
	}
	if err != nil {
		return fmt.Errorf("read the peers of %s: %w; compare `weft version` here and there", whose, err)
	}
	if doc.Error != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "weft: warning: %s\n", oneLine(doc.Error))
	}
	out := cmd.OutOrStdout()
	switch {
	case output == "json" && doc.Raw == nil:
		return printRawJSON(out, []byte("[]"))
	case output == "json":
		return printRawJSON(out, doc.Raw)
	case !doc.Encryption.On && len(doc.Peers.Peers) == 0:
		_, err := fmt.Fprintln(out, encryptionOff)
		return err
	case len(doc.Peers.Peers) == 0:
		_, err := fmt.Fprintln(out, "no peers: no other node has published itself")
		return err
	case !doc.Encryption.On:
		fmt.Fprintln(cmd.ErrOrStderr(), "weft: encryption was switched off; these are still in use")
	}
	v := peersView{now: time.Now(), wide: output == "wide", width: statusWidth(screenWidth(out), output == "wide")}
	return v.print(out, doc.Peers.Peers)
}

const encryptionOff = "encryption is off: set wireguardEnabled or wireguardEnabledV6 of a FelixConfiguration to true"

// showAllPeers prints what several nodes answered.
func showAllPeers(cmd *cobra.Command, output string, answers []nodeAnswer) error {
	out := cmd.OutOrStdout()
	v := peersView{now: time.Now(), wide: output == "wide", several: true, width: statusWidth(screenWidth(out), output == "wide")}
	t := v.table()
	on := 0
	eachAnswer(answers, func(node string, doc *status.Peers) {
		if doc.Error != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "weft: warning: %s: %s\n", clean(node), oneLine(doc.Error))
		}
		if doc.Encryption.On {
			on++
		}
		v.add(t, node, doc.Peers)
	})
	if output == "json" {
		if err := printValue(out, "json", answers); err != nil {
			return err
		}
		return silent(cmd.ErrOrStderr(), answers)
	}
	switch {
	case len(t.rows) > 0:
		if err := t.print(out); err != nil {
			return err
		}
	case on > 0:
		fmt.Fprintln(out, "no peers: there is no other node")
	default:
		fmt.Fprintln(out, encryptionOff)
	}
	return silent(cmd.ErrOrStderr(), answers)
}

// peersView renders peers for people.
type peersView struct {
	now     time.Time
	wide    bool
	several bool // nodes have them
	width   int  // columns of the screen; 0 means unlimited
}

func (v *peersView) table() *table {
	t := &table{width: v.width, header: []string{"NODE", "DEVICE", "ENDPOINT", "HANDSHAKE", "RX", "TX", "ALLOWED IPS", "WHY"}}
	if v.wide {
		t.header = []string{"NODE", "DEVICE", "KEY EPOCH", "PUBLIC KEY", "ENDPOINT", "HANDSHAKE", "RX", "TX", "ALLOWED IPS", "WHY"}
	}
	if v.several {
		t.header[0] = "PEER"
		t.header = append([]string{"NODE"}, t.header...)
	}
	return t
}

func (v *peersView) print(w io.Writer, peers []status.EncryptionPeer) error {
	t := v.table()
	v.add(t, "", peers)
	return t.print(w)
}

// add makes rows of the peers of a node.
func (v *peersView) add(t *table, node string, peers []status.EncryptionPeer) {
	for i := range peers {
		p := &peers[i]
		device, handshake, rx, tx, epoch := "-", "-", "-", "-", "-"
		if p.Device != "" {
			device, handshake, rx, tx, epoch = p.Device, v.handshake(p), humanBytes(p.Rx), humanBytes(p.Tx), strconv.Itoa(p.KeyEpoch)
			if p.Driver != "" {
				device += " (" + p.Driver + ")"
			}
		}
		var row []string
		if v.several {
			row = append(row, node)
		}
		why := strings.Join(p.Why, "; ")
		if v.wide {
			row = append(row, orDash(p.Node), device, epoch, orDash(p.PublicKey), orDash(p.Endpoint), handshake, rx, tx, orDash(strings.Join(p.AllowedIPs, ",")), why)
		} else {
			row = append(row, orDash(p.Node), device, orDash(p.Endpoint), handshake, rx, tx, firstOf(p.AllowedIPs), why)
		}
		t.add(row...)
	}
}

func (v *peersView) handshake(p *status.EncryptionPeer) string {
	if p.LastHandshake == nil {
		return "never"
	}
	return ago(v.now.Sub(*p.LastHandshake))
}

// ago says in words how long ago something was.
func ago(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d >= u.unit {
			return count(int(d/u.unit), u.name) + " ago"
		}
	}
	return "now"
}

// humanBytes prints a number of bytes in units of 1024, with at most 4 digits.
func humanBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 1023.95 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}

// firstOf names the first of several and counts the others.
func firstOf(all []string) string {
	if len(all) < 2 {
		return orDash(strings.Join(all, ""))
	}
	return fmt.Sprintf("%s +%d", all[0], len(all)-1)
}

// encryptionLine says in the status how far encryption is.
func encryptionLine(e *status.Encryption) string {
	if !e.On {
		if len(e.Encrypted) > 0 {
			return fmt.Sprintf("off; %s clear text again", many(len(e.Encrypted), "node still reached by WireGuard, until it takes", "nodes still reached by WireGuard, until they take"))
		}
		return "off"
	}
	if e.Driver == "" {
		return fmt.Sprintf("ON, BUT THIS HOST HAS NO WIREGUARD, %s: %s", e.Mode, clearText(e))
	}
	text := fmt.Sprintf("WireGuard (%s) for %s, %s, key epoch %d", e.Driver, strings.Join(e.Families, " and "), e.Mode, e.KeyEpoch)
	if len(e.OtherEpochs) > 0 {
		text += fmt.Sprintf(" (and %s until nothing is sent by it)", epochNumbers(e.OtherEpochs))
	}
	ready := fmt.Sprintf("%d of %s ready", e.Ready, count(e.Nodes, "peer"))
	switch {
	case e.OnForGood:
		text += ", on for good (" + ready + ")"
	case e.Mode == "Preferred":
		text += ", " + ready
	default:
		text += ", rolling out: " + ready
	}
	text += ", " + clearText(e)
	if h := e.Hosts; h != nil {
		text += fmt.Sprintf(", hosts too: %d of %d", len(h.Encrypted), len(h.Encrypted)+len(h.Clear)+len(h.Unreachable))
	}
	switch {
	case e.Error != "":
		text += ", refused packets cannot be counted"
	case e.Mode == "Required":
		text += fmt.Sprintf(", refused packets: %d out, %d in", e.RefusedOut, e.RefusedIn)
	}
	return because(text, e.Error)
}

func clearText(e *status.Encryption) string {
	text := fmt.Sprintf("clear-text peers: %d", len(e.Clear))
	if len(e.Unreachable) > 0 {
		text += fmt.Sprintf(", unreachable: %d", len(e.Unreachable))
	}
	return text
}

func epochNumbers(epochs []int) string {
	var s []string
	for _, e := range epochs {
		s = append(s, strconv.Itoa(e))
	}
	return strings.Join(s, ", ")
}

// weak tells whether something that is to be encrypted is not, or cannot be told.
func weak(e *status.Encryption) bool {
	silent := e.OnForGood && e.Ready < e.Nodes && len(e.OtherEpochs) == 0
	return e.On && (e.Driver == "" || e.Hosts != nil && len(e.Hosts.Clear)+len(e.Hosts.Unreachable) > 0 || len(e.Clear) > 0 || len(e.Unreachable) > 0 || silent || e.Error != "")
}
