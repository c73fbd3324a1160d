package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// manager is whose fields the API server takes those for that are applied.
const manager = "weft-install"

// Cluster is a Kubernetes API server.
type Cluster struct {
	Client *http.Client // with credentials
	Base   *url.URL
	// Say is told what is done.
	Say func(format string, args ...any)
}

// Install applies manifests and waits until the node service is ready on every node, or ctx ends.
func (c *Cluster) Install(ctx context.Context, kinds, rest []Object) error {
	for _, o := range kinds {
		if err := c.apply(ctx, o); err != nil {
			return err
		}
	}
	c.Say("%d kinds of resources are applied", len(kinds))
	for _, o := range kinds {
		if err := c.await(ctx, o, "its kind is not served yet", established); err != nil {
			return err
		}
	}
	for _, o := range rest {
		if err := c.apply(ctx, o); err != nil {
			return err
		}
		c.Say("%s %s is applied", o.Kind(), o.Name())
	}
	if err := c.takeBack(ctx, rest); err != nil {
		return err
	}
	for _, o := range rest {
		if o.Kind() != "DaemonSet" && o.Kind() != "Deployment" {
			continue
		}
		c.Say("waiting for %s %s on the nodes", o.Kind(), o.Name())
		if err := c.await(ctx, o, "not ready on every node", c.rolledOut); err != nil {
			return err
		}
	}
	return nil
}

// path is where the API server has a resource.
func (o Object) path() string {
	version, _ := o["apiVersion"].(string)
	path := "/apis/" + version
	if !strings.Contains(version, "/") {
		path = "/api/" + version
	}
	if ns, _ := o.at("metadata", "namespace").(string); ns != "" {
		path += "/namespaces/" + ns
	}
	plural := strings.ToLower(o.Kind()) + "s"
	if stem, ok := strings.CutSuffix(plural, "ys"); ok {
		plural = stem + "ies"
	}
	return path + "/" + plural + "/" + o.Name()
}

// servedWithin bounds how long the API server may need until it serves a kind, or has kube-system, after it knows of it.
const servedWithin = 10 * time.Second

// apply makes a resource what the manifest says, whoever changed it since. Its kind may have been made a moment ago.
func (c *Cluster) apply(ctx context.Context, o Object) error {
	body, err := yaml.Marshal(o)
	if err != nil {
		return err
	}
	for begin := time.Now(); ; {
		_, err = c.do(ctx, http.MethodPatch, o.path()+"?fieldManager="+manager+"&force=true", body)
		var refused *refusal
		if err == nil || !errors.As(err, &refused) || refused.code != http.StatusNotFound {
			break
		}
		if time.Since(begin) > servedWithin {
			err = fmt.Errorf("%w: this API server has no %s of %s, or not its namespace; Kubernetes 1.30 or later is needed", err, o.Kind(), o["apiVersion"])
			break
		}
		if wait(ctx, 200*time.Millisecond) != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", o.Kind(), o.Name(), err)
	}
	return nil
}

// await asks for a resource until done says so; done's text, or what, tells why not.
func (c *Cluster) await(ctx context.Context, o Object, what string, done func(context.Context, Object) (bool, string)) error {
	for {
		b, err := c.do(ctx, http.MethodGet, o.path(), nil)
		if err == nil {
			var now Object
			if err := json.Unmarshal(b, &now); err != nil {
				return fmt.Errorf("read %s %s: %w", o.Kind(), o.Name(), err)
			}
			ok, why := done(ctx, now)
			if ok {
				return nil
			}
			if why != "" {
				what = why
			}
		} else if ctx.Err() == nil {
			return fmt.Errorf("read %s %s: %w", o.Kind(), o.Name(), err)
		}
		if err := wait(ctx, 300*time.Millisecond); err != nil {
			return fmt.Errorf("%s %s is applied, but: %s", o.Kind(), o.Name(), what)
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func established(_ context.Context, o Object) (bool, string) {
	conditions, _ := o.at("status", "conditions").([]any)
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
			return true, ""
		}
	}
	return false, ""
}
