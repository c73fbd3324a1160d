package cni

import (
	"strings"

	"weft/node/cni/rpc"
)

// podIdentity is which pod a container belongs to.
type podIdentity struct {
	Orchestrator string // "k8s", or "cni" where the runtime knows no pods
	Namespace    string
	Pod          string
	UID          string
}

// parseArgs reads CNI_ARGS, "KEY=VALUE;KEY=VALUE" (CNI conventions document). A key that is not
// known is an error unless IgnoreUnknown is set, as the conventions have it.
func parseArgs(r *rpc.Request) (podIdentity, *rpc.Error) {
	bad := func(format string, a ...any) (podIdentity, *rpc.Error) {
		return podIdentity{}, rpc.Errorf(rpc.CodeInvalidEnvironment, "CNI_ARGS: "+format, a...)
	}
	args := map[string]string{}
	for pair := range strings.SplitSeq(r.Args, ";") {
		if pair == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return bad("%q is not KEY=VALUE", pair)
		}
		args[k] = v
	}
	ignore := false
	switch v := args["IgnoreUnknown"]; strings.ToLower(v) {
	case "", "0", "false":
	case "1", "true":
		ignore = true
	default:
		return bad("IgnoreUnknown is %q: want 1 or 0", v)
	}
	for k := range args {
		switch k {
		case "IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID":
		default:
			if !ignore {
				return bad("%s is not known; add IgnoreUnknown=1 if it is meant for another plugin", k)
			}
		}
	}
	id := podIdentity{"k8s", args["K8S_POD_NAMESPACE"], args["K8S_POD_NAME"], args["K8S_POD_UID"]}
	if id.Namespace == "" && id.Pod == "" {
		return podIdentity{"cni", "default", podOfContainer(r.ContainerID), ""}, nil
	}
	if !validLabel(id.Namespace) {
		return bad("K8S_POD_NAMESPACE is %q: want a DNS label (a-z, 0-9 and '-', at most 63)", id.Namespace)
	}
	if !validSubdomain(id.Pod) {
		return bad("K8S_POD_NAME is %q: want a DNS subdomain (a-z, 0-9, '-' and '.', at most 253)", id.Pod)
	}
	return id, nil
}
