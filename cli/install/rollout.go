package install

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// rolledOut tells whether every node has the pods of this generation, ready; else what the first pod waits for. Pods that
// are replaced only when somebody deletes them may be of an older generation: it says so.
func (c *Cluster) rolledOut(ctx context.Context, o Object) (bool, string) {
	number := func(path ...string) float64 { f, _ := o.at(path...).(float64); return f }
	want, updated, ready := number("status", "desiredNumberScheduled"), number("status", "updatedNumberScheduled"), number("status", "numberAvailable")
	if o.Kind() == "Deployment" {
		want, updated, ready = number("spec", "replicas"), number("status", "updatedReplicas"), number("status", "availableReplicas")
	}
	if number("status", "observedGeneration") < number("metadata", "generation") {
		return false, "Kubernetes' controllers have not looked at it yet"
	}
	old := want - updated
	if o.at("spec", "updateStrategy", "type") == "OnDelete" {
		updated = want
	}
	if want == 0 || updated != want || ready != want {
		return false, fmt.Sprintf("it is ready on %.0f of %.0f nodes%s", min(updated, ready), want, c.trouble(ctx, o))
	}
	if old > 0 {
		ns, _ := o.at("metadata", "namespace").(string)
		c.Say("%s %s still runs the old release on %.0f of %.0f nodes: it is replaced only when its pod is deleted, by kubectl -n %s delete pod -l %s --field-selector spec.nodeName=NODE; encrypted traffic of that node then stops for a few seconds",
			o.Kind(), o.Name(), old, want, ns, o.selector())
	}
	return true, ""
}

// selector is that of a DaemonSet's or Deployment's pods.
func (o Object) selector() string {
	labels, _ := o.at("spec", "selector", "matchLabels").(map[string]any)
	var terms []string
	for k, v := range labels {
		terms = append(terms, fmt.Sprintf("%s=%v", k, v))
	}
	slices.Sort(terms)
	return strings.Join(terms, ",")
}

// trouble says what a pod of a DaemonSet or Deployment waits for.
func (c *Cluster) trouble(ctx context.Context, o Object) string {
	ns, _ := o.at("metadata", "namespace").(string)
	b, err := c.do(ctx, http.MethodGet, "/api/v1/namespaces/"+ns+"/pods?labelSelector="+url.QueryEscape(o.selector()), nil)
	var pods struct {
		Items []struct {
			Spec   struct{ NodeName string }
			Status struct {
				ContainerStatuses []struct {
					Image string
					State struct {
						Waiting *struct{ Reason, Message string }
					}
				}
			}
		}
	}
	if err != nil || json.Unmarshal(b, &pods) != nil {
		return ""
	}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			w := s.State.Waiting
			if w == nil {
				continue
			}
			text := fmt.Sprintf("; on %s: %s: %s", p.Spec.NodeName, w.Reason, w.Message)
			if strings.Contains(w.Reason, "Image") || w.Reason == "ErrImageNeverPull" {
				text += "; bring the image " + s.Image + " to the nodes (make image, ctr -n k8s.io images import), or name another with --image"
			}
			return text
		}
	}
	return ""
}
