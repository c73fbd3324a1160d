// Package conformance pins what the conformance tests of network policy are built from: see hack/conformance.sh.
package conformance

import (
	_ "sigs.k8s.io/controller-runtime/pkg/client/config"
	_ "sigs.k8s.io/network-policy-api/conformance/tests"
	_ "sigs.k8s.io/network-policy-api/conformance/utils/flags"
)
