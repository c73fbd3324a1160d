package install

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// capabilities are what each container may have, and no more: docs/kubernetes.md says what for.
var capabilities = map[string][]core.Capability{
	"DaemonSet/weft-node":         {"DAC_OVERRIDE", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN"},
	"DaemonSet/weft-keeper":       {"NET_ADMIN", "NET_BIND_SERVICE"},
	"Deployment/weft-controllers": nil,
}

// What of the host each may write or see beside its own files.
var hostPaths = map[string][]string{
	"DaemonSet/weft-node": {"/run/weft", "/var/lib/weft", "/opt/cni/bin", "/etc/cni/net.d", "/run/netns", "/proc/sys/net", "/var/run/wireguard",
		"/dev/net"},
	"DaemonSet/weft-keeper":       {"/run/weft", "/var/run/wireguard", "/dev/net"},
	"Deployment/weft-controllers": nil,
}

// No container of any overlay is privileged or shares the host's processes; each has the capabilities that it needs.
func TestPrivileges(t *testing.T) {
	for _, overlay := range Overlays() {
		_, rest, err := Manifests(Options{Overlay: overlay})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, o := range rest {
			template, ok, err := unstructured.NestedMap(o, "spec", "template", "spec")
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				continue
			}
			seen++
			kind, _, _ := unstructured.NestedString(o, "kind")
			name, _, _ := unstructured.NestedString(o, "metadata", "name")
			which := kind + "/" + name
			var pod core.PodSpec
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(template, &pod, true); err != nil {
				t.Fatal(err)
			}
			checkPod(t, overlay+": "+which, which, pod)
		}
		if seen != len(capabilities) {
			t.Errorf("%s: %d kinds of pods, want %d", overlay, seen, len(capabilities))
		}
	}
}

func checkPod(t *testing.T, what, which string, pod core.PodSpec) {
	t.Helper()
	want, known := capabilities[which]
	if !known || len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
		t.Fatalf("%s: known %v, %d containers and %d before them: want one", what, known, len(pod.Containers), len(pod.InitContainers))
	}
	if pod.HostPID || pod.HostIPC || pod.ShareProcessNamespace != nil {
		t.Errorf("%s sees processes that are not its own", what)
	}
	var paths []string
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	if diff := cmp.Diff(hostPaths[which], paths); diff != "" {
		t.Errorf("%s has folders of the host (-want +got):\n%s", what, diff)
	}
	s, own := pod.Containers[0].SecurityContext, pod.SecurityContext
	seccomp := s.SeccompProfile
	if seccomp == nil && own != nil {
		seccomp = own.SeccompProfile
	}
	if s.Privileged != nil && *s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || seccomp == nil || seccomp.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: %+v", what, s)
	}
	if s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, want) {
		t.Errorf("%s has the capabilities %+v, want %q", what, s.Capabilities, want)
	}
}
