package routing

import (
	"fmt"
	"slices"

	"weft/model"
)

// WhyNoSessions says why CompileSpeaker has this host speak with nobody, for who expected that it does: a clause without a
// full stop. It is for an input that has no sessions.
func WhyNoSessions(in SpeakerInput) string {
	c := newSpeakerCompiler(&in)
	switch {
	case c.self == nil || len(c.self.Addresses) == 0:
		return fmt.Sprintf("node %s has no address", in.Self)
	case slices.ContainsFunc(c.peers, func(p preparedPeer) bool { return p.isLocal(c.self) && !p.isOwn(c.self) }):
		return "the peers that BGPPeers name for this node are not there, or what the resources say of them cannot be"
	case in.BGP.Config.Mesh && in.BGP.Config.MeshPassword != (model.SecretRef{}) && in.Passwords[in.BGP.Config.MeshPassword] == "":
		return "the password of the mesh is not there, and no BGPPeer is for this node"
	case len(in.Nodes) < 2:
		return "there is no other node, and no BGPPeer is for this one"
	case !in.BGP.Config.Mesh:
		return "nodeToNodeMeshEnabled is false in the BGPConfiguration default, and no BGPPeer is for this node"
	case c.self.BGP.ClusterID.IsValid():
		return "this node has a routeReflectorClusterID, so it is not in the mesh, and no BGPPeer is for it"
	}
	return "no other node is in the mesh that has an address of the same family, and no BGPPeer is for this one"
}
