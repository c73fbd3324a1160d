package conntrack

import (
	"encoding/binary"
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// ByHold is the cause in the tag of a packet whose connection is held.
const ByHold policy.Cause = 'c'

const (
	// prefix begins the names of what the Cutter owns in the table kernel.NFTable.
	prefix = "held-"
	// counterHeld counts the packets that were dropped for belonging to a connection that is held.
	counterHeld = prefix + "dropped"
	// after connection tracking (-200), before whatever else may look at the packet.
	priority = nftables.ChainPriority(-190)
	// logged packets of held connections a second, and bytes of each.
	logRate, logBytes = 10, 128
)

// holding is the program that drops, in both directions, what carries HeldMark. It is there only while
// a connection is held.
func holding() nft.Program {
	p := nft.Program{Counters: []string{counterHeld}}
	for _, c := range []struct {
		name string
		hook *nftables.ChainHook
	}{{prefix + "in", nftables.ChainHookPrerouting}, {prefix + "out", nftables.ChainHookOutput}} {
		prio := priority
		p.Chains = append(p.Chains, nft.Chain{Name: c.name,
			Base: &nft.Base{Type: nftables.ChainTypeFilter, Hook: c.hook, Priority: prio},
			Rules: [][]expr.Any{
				nft.Rule(held(), logged()),
				nft.Rule(held(), nft.Count(counterHeld), nft.Drop()),
			}})
	}
	return p
}

func held() []expr.Any {
	mask := binary.NativeEndian.AppendUint32(nil, kernel.HeldMark)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: mask},
	}
}

func logged() []expr.Any {
	tag := policy.Tag{Action: model.Deny, Direction: model.Ingress, Cause: ByHold}
	return nft.Rule(nft.AtMost(logRate, logRate), nft.LogTo(kernel.LogGroup, logBytes, tag.String()))
}

// lacking tells that this kernel cannot hold connections: it has no nftables, or no connection marks. That
// something is not found says so only of a rule, whose expressions the kernel then does not have.
func lacking(err error) bool {
	for _, r := range nft.Refusals(err) {
		if r.Rule >= 0 && r.Chain != "" && errors.Is(r.Err, unix.ENOENT) {
			return true
		}
	}
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}
