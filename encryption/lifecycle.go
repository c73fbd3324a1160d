package encryption

import "slices"

// KeyState is what there is to know about this node's keys.
type KeyState struct {
	Wanted bool  // encryption is on
	Epoch  int   // of the cluster: it counts the rotations
	Have   []int // epochs that there is a key of, sorted
	// InUse are the epochs by which a peer may still send to this node or this node to a peer, sorted.
	InUse []int
}

// KeySteps is what follows: generate, have a device with each key of Use, remove.
type KeySteps struct {
	Generate []int
	Use      []int // sorted
	Remove   []int
	// Rotating tells that the keys of several epochs are in use: traffic moves from one to the next.
	Rotating bool
}

// NextKeys is the life of keys. The key of the cluster's epoch is generated once and kept, also while
// encryption is off. A rotation is a new epoch: from then on there are two keys with a device each, and the old
// one goes, for good, when nothing is sent by it any more. A key whose epoch has passed and that nobody
// uses is removed, whoever left it.
func NextKeys(s KeyState) KeySteps {
	var out KeySteps
	for _, e := range s.Have {
		switch {
		case slices.Contains(s.InUse, e) || e == s.Epoch && s.Wanted:
			out.Use = append(out.Use, e)
		case e != s.Epoch:
			out.Remove = append(out.Remove, e)
		}
	}
	if s.Wanted && !slices.Contains(s.Have, s.Epoch) {
		out.Generate = []int{s.Epoch}
		out.Use = append(out.Use, s.Epoch)
		slices.Sort(out.Use)
	}
	out.Rotating = len(out.Use) > 1
	return out
}
