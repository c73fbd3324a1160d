// Command netpol runs Kubernetes' own end-to-end specs of network policy, those of k8s.io/kubernetes/test/e2e/network/netpol,
// unchanged. The whole of Kubernetes' e2e.test cannot be built from modules: it needs k8s.io/sample-apiserver, which has no
// version there. Flags are those of e2e.test; -print-image prints the image that the specs' pods run.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	_ "k8s.io/component-base/logs/testinit" // flags of a test program, which ginkgo asks for
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	_ "k8s.io/kubernetes/test/e2e/network/netpol"
	imageutils "k8s.io/kubernetes/test/utils/image"
)

// failure is what ginkgo tells that specs failed.
type failure bool

func (f *failure) Fail() { *f = true }

func main() {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	part := flag.String("part", "0/1", "`I/N`: only every Nth spec, from the Ith on, so that N of these share the work")
	image := flag.Bool("print-image", false, "print the image of the specs' pods")
	flag.Parse()
	if *image {
		fmt.Println(imageutils.GetE2EImage(imageutils.Agnhost))
		return
	}
	framework.AfterReadingAllFlags(&framework.TestContext)
	gomega.RegisterFailHandler(framework.Fail)
	suite, report := framework.CreateGinkgoConfig()
	suite.SkipStrings = nil // without a focus every feature is left out, this one too
	var err error
	if suite.FocusStrings, err = focus(*part); err != nil {
		fmt.Fprintln(os.Stderr, "netpol:", err)
		os.Exit(2)
	}
	var failed failure
	if !ginkgo.RunSpecs(&failed, "Kubernetes network policy", suite, report) || bool(failed) {
		os.Exit(1)
	}
}

// focus returns what selects the specs of a part.
func focus(part string) (only []string, err error) {
	var i, n int
	if _, err := fmt.Sscanf(part, "%d/%d", &i, &n); err != nil || n < 1 || i < 0 || i >= n {
		return nil, fmt.Errorf("-part %q: want I/N, such as 0/3", part)
	}
	for k, s := range ginkgo.PreviewSpecs("").SpecReports {
		if k%n == i {
			only = append(only, regexp.QuoteMeta(s.FullText())+"$|"+regexp.QuoteMeta(s.FullText())+" \\[")
		}
	}
	return only, nil
}
