// Package remote asks the node services of a Kubernetes cluster by way of its API server: it runs `weft ask` in the
// pods of their DaemonSet. It knows where they run and how they can be asked, not what.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"weft/node/datastore/kube"
)

// What manifests/base installs.
const (
	Namespace = "kube-system"
	Selector  = "k8s-app=weft-node"
	Container = "weft"
	Program   = "/weft"
)

// ExitNotServed is with which code `weft ask` ends when the node does not know what it is asked for.
const ExitNotServed = 3

// ErrNotServed is for what a node does not know, being of another version.
var ErrNotServed = errors.New("the node does not have it")

// Cluster reaches the node services of one Kubernetes cluster.
type Cluster struct {
	conf   *rest.Config
	client *rest.RESTClient
}

// Open sets up the client; nothing is asked yet.
func Open(cfg kube.Config) (*Cluster, error) {
	conf, err := kube.RESTConfig(cfg)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("set up the Kubernetes client: %w", err)
	}
	conf.QPS = -1
	conf.WarningHandler = rest.NoWarnings{}
	conf.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	conf.GroupVersion, conf.APIPath = &corev1.SchemeGroupVersion, "/api"
	conf.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := rest.RESTClientFor(conf)
	if err != nil {
		return nil, fmt.Errorf("set up the Kubernetes client for %s: %w", conf.Host, err)
	}
	return &Cluster{conf: conf, client: client}, nil
}

// Close ends idle connections.
func (c *Cluster) Close() {
	if c.client.Client != nil {
		c.client.Client.CloseIdleConnections()
	}
}

// pageSize is how many pods are listed at once.
const pageSize = 500

// Services returns the node services as the API server knows them, one a node, in no order. A name asks for that
// node's only.
func (c *Cluster) Services(ctx context.Context, node string) ([]Service, error) {
	best := map[string]*corev1.Pod{}
	next := ""
	for {
		list := &corev1.PodList{}
		r := c.client.Get().Namespace(Namespace).Resource("pods").Param("labelSelector", Selector).Param("limit", fmt.Sprint(pageSize))
		if next != "" {
			r = r.Param("continue", next)
		}
		if node != "" {
			r = r.Param("fieldSelector", "spec.nodeName="+node)
		}
		if err := r.Do(ctx).Into(list); err != nil {
			return nil, fmt.Errorf("list the pods of the node service (%s in %s): %w", Selector, Namespace, readable(ctx, err))
		}
		for i := range list.Items {
			p := &list.Items[i]
			if was := best[p.Spec.NodeName]; p.Spec.NodeName != "" && (was == nil || better(p, was)) {
				best[p.Spec.NodeName] = p
			}
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	all := make([]Service, 0, len(best))
	for _, p := range best {
		all = append(all, serviceOf(p))
	}
	return all, nil
}

// Nodes returns the names of Kubernetes' nodes, without reading more of them.
func (c *Cluster) Nodes(ctx context.Context) ([]string, error) {
	var names []string
	next := ""
	for {
		r := c.client.Get().Resource("nodes").Param("limit", fmt.Sprint(pageSize)).
			SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
		if next != "" {
			r = r.Param("continue", next)
		}
		var list metav1.PartialObjectMetadataList
		b, err := r.Do(ctx).Raw()
		if err == nil {
			err = json.Unmarshal(b, &list)
		}
		if err != nil {
			return nil, fmt.Errorf("list the nodes of Kubernetes: %w", err)
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		if next = list.Continue; next == "" {
			return names, nil
		}
	}
}

// Ask runs `weft ask path` where the service is, and copies what the node answers, as it comes, until the answer or ctx
// ends. follow is for an answer without an end.
func (c *Cluster) Ask(ctx context.Context, s *Service, path string, follow bool, answer io.Writer) error {
	if !s.Running {
		return errors.New(s.Why)
	}
	at := c.client.Get().Namespace(Namespace).Resource("pods").Name(s.Pod).SubResource("exec").
		Param("container", Container).Param("stdin", "true").Param("stdout", "true").Param("stderr", "true")
	command := []string{Program, "ask", path}
	if follow {
		command = append(command, "--follow")
	}
	for _, word := range command {
		at.Param("command", word)
	}
	run, err := remotecommand.NewWebSocketExecutor(c.conf, http.MethodGet, at.URL().String())
	if err != nil {
		return fmt.Errorf("reach pod %s: %w", s.Pod, err)
	}
	// The program there ends with its standard input: the runtime closes that when this connection ends.
	in, end := io.Pipe()
	defer func() { _ = end.Close() }()
	errs := &limited{left: 4096}
	err = run.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: answer, Stderr: errs})
	var code exec.CodeExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &code) && code.Code == ExitNotServed:
		return ErrNotServed
	case errors.As(err, &code):
		return fmt.Errorf("%s ask: %s", Program, said(errs.String(), code.Code))
	}
	return readable(ctx, err)
}

// said is what a program that failed wrote, in one line.
func said(text string, code int) string {
	text = strings.TrimPrefix(strings.Join(strings.Fields(text), " "), "weft: ")
	if text == "" {
		return fmt.Sprintf("exit code %d", code)
	}
	return text
}

// limited keeps the beginning of what is written.
type limited struct {
	strings.Builder
	left int
}

// Write never fails.
func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, _ = l.Builder.Write(p[:n])
	return len(p), nil
}

// readable takes out of an error what the reader knows, and says what to do.
func readable(ctx context.Context, err error) error {
	var u *url.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: asking nodes takes the rights of the role weft-admin", err)
	case strings.Contains(err.Error(), "forbidden"): // an upgrade that is refused is no error of the API
		return fmt.Errorf("%w: asking nodes takes the rights of the role weft-admin", err)
	case apierrors.IsUnauthorized(err):
		return errors.New("the API server does not accept the credentials: renew the kubeconfig or the token")
	case errors.As(err, &u):
		return u.Err
	}
	return err
}

// Service is a node's service as the API server knows it.
type Service struct {
	Node string
	Pod  string
	// Image of the container, without registry; Since is when the container began.
	Image string
	Since time.Time
	// Running tells that it can be asked, Ready that it says it is; Why, if not.
	Running, Ready bool
	Why            string
	Restarts       int
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// better tells which of two pods of one node is its service: during an update there are two for a moment.
func better(a, b *corev1.Pod) bool {
	if going := a.DeletionTimestamp != nil; going != (b.DeletionTimestamp != nil) {
		return !going
	}
	if ready(a) != ready(b) {
		return ready(a)
	}
	return b.CreationTimestamp.Before(&a.CreationTimestamp)
}

func serviceOf(p *corev1.Pod) Service {
	s := Service{Node: p.Spec.NodeName, Pod: p.Name, Ready: ready(p)}
	for _, c := range p.Spec.Containers {
		if c.Name == Container {
			s.Image = c.Image[strings.LastIndexByte(c.Image, '/')+1:]
		}
	}
	s.Why = "its pod " + p.Name + " is " + strings.ToLower(string(p.Status.Phase))
	for _, c := range p.Status.ContainerStatuses {
		if c.Name != Container {
			continue
		}
		s.Restarts = int(c.RestartCount)
		switch {
		case c.State.Running != nil:
			s.Running, s.Since, s.Why = true, c.State.Running.StartedAt.Time, "it is not ready"
		case c.State.Waiting != nil:
			s.Why = strings.Trim(c.State.Waiting.Reason+": "+c.State.Waiting.Message, ": ")
		case c.State.Terminated != nil:
			s.Why = fmt.Sprintf("it has ended with exit code %d (%s)", c.State.Terminated.ExitCode, c.State.Terminated.Reason)
		}
	}
	if p.Status.Reason == "NodeLost" || p.DeletionTimestamp != nil {
		s.Why = "its pod " + p.Name + " is being deleted"
	}
	if s.Ready {
		s.Why = ""
	}
	return s
}
