package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// With the component PodMonitor, an overlay has what Prometheus Operator's own types take, strictly read, and it leads to
// a port of the DaemonSet on which the node service serves metrics.
func TestPodMonitor(t *testing.T) {
	manifests, err := filepath.Abs("../../manifests")
	if err != nil {
		t.Fatal(err)
	}
	overlays, err := os.ReadDir(filepath.Join(manifests, "overlays"))
	if err != nil || len(overlays) == 0 {
		t.Fatalf("no overlays: %v", err)
	}
	for _, o := range overlays {
		dir := t.TempDir()
		relative, err := filepath.Rel(dir, manifests)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("resources: [%s/overlays/%s]\ncomponents: [%s/components/podmonitor]\n", relative, o.Name(), relative)
		if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
		if err != nil {
			t.Fatal(err)
		}
		var monitor monitoring.PodMonitor
		var nodes apps.DaemonSet
		found := 0
		for _, r := range made.Resources() {
			var into any
			switch {
			case r.GetKind() == monitoring.PodMonitorsKind:
				into = &monitor
			case r.GetKind() == "DaemonSet" && r.GetName() == "weft-node":
				into = &nodes
			default:
				continue
			}
			found++
			b, err := r.AsYAML()
			if err == nil {
				err = yaml.UnmarshalStrict(b, into)
			}
			if err != nil {
				t.Fatalf("%s: %v", o.Name(), err)
			}
		}
		if found != 2 {
			t.Fatalf("%s: %d of 2 resources", o.Name(), found)
		}
		leads(t, &monitor, &nodes)
	}
}

// leads follows a PodMonitor to the container's port and the address that the program in it listens on.
func leads(t *testing.T, monitor *monitoring.PodMonitor, nodes *apps.DaemonSet) {
	t.Helper()
	if monitor.APIVersion != monitoring.SchemeGroupVersion.String() || monitor.Namespace != nodes.Namespace {
		t.Errorf("the PodMonitor is %s in namespace %q", monitor.APIVersion, monitor.Namespace)
	}
	selector, err := metav1.LabelSelectorAsSelector(&monitor.Spec.Selector)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(nodes.Spec.Template.Labels)) {
		t.Errorf("selector %v does not choose the node service's pods, which have labels %v (%v)", selector, nodes.Spec.Template.Labels, err)
	}
	if len(monitor.Spec.PodMetricsEndpoints) != 1 || monitor.Spec.PodMetricsEndpoints[0].Port == nil || monitor.Spec.PodMetricsEndpoints[0].Path != "/metrics" {
		t.Fatalf("endpoints: %+v", monitor.Spec.PodMetricsEndpoints)
	}
	c := nodes.Spec.Template.Spec.Containers[0]
	env := map[string]string{}
	for _, e := range c.Env { // one is expanded in another only when it stands before that
		value := e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			value = "FIELD:" + e.ValueFrom.FieldRef.FieldPath
		}
		for k, v := range env {
			value = strings.ReplaceAll(value, "$("+k+")", v)
		}
		env[e.Name] = value
	}
	for _, p := range c.Ports {
		if p.Name == *monitor.Spec.PodMetricsEndpoints[0].Port {
			if want := fmt.Sprintf("[FIELD:status.hostIP]:%d", p.ContainerPort); env["WEFT_METRICS_LISTEN"] != want {
				t.Errorf("the node service listens on %q, want %q", env["WEFT_METRICS_LISTEN"], want)
			}
			return
		}
	}
	t.Errorf("no port is named %q: %v", *monitor.Spec.PodMetricsEndpoints[0].Port, c.Ports)
}
