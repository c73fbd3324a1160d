package cli

import (
	"slices"
	"strings"

	v3 "weft/api/v3"
)

// target is a kind and names of it; no names means all.
type target struct {
	kind  v3.KindInfo
	names []string
}

// parseTargets reads "KIND[,KIND...] [NAME...]" or "KIND/NAME...".
func parseTargets(args []string) ([]target, error) {
	if len(args) == 0 {
		return nil, Usagef("KIND is missing: want %s", oneOf(kindNames(true)))
	}
	if strings.Contains(args[0], "/") {
		return parseReferences(args)
	}
	var targets []target
	for _, name := range strings.Split(args[0], ",") {
		kind, err := lookupKind(name)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target{kind, args[1:]})
	}
	for _, name := range args[1:] {
		if name == "" || strings.Contains(name, "/") {
			return nil, Usagef("%q is no name of a resource; write KIND NAME..., or KIND/NAME for each", name)
		}
	}
	return targets, nil
}

func parseReferences(args []string) ([]target, error) {
	var targets []target
	for _, a := range args {
		word, name, ok := strings.Cut(a, "/")
		if !ok || name == "" || strings.Contains(name, "/") {
			return nil, Usagef("%q: want KIND/NAME, as in the other arguments", a)
		}
		kind, err := lookupKind(word)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(targets, func(t target) bool { return t.kind.Kind == kind.Kind })
		if i < 0 {
			targets = append(targets, target{kind: kind})
			i = len(targets) - 1
		}
		targets[i].names = append(targets[i].names, name)
	}
	return targets, nil
}
