package bench

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/lab"
	"weft/node/datastore"
)

//go:embed shop.yaml
var shopYAML []byte

const (
	// answerWithin is how long a connection that should come about is tried, silenceFor one that should not.
	answerWithin = 5 * time.Second
	silenceFor   = 700 * time.Millisecond
)

// shopPod is a pod of the policy demo, which serves one TCP port.
type shopPod struct {
	node, namespace, name string
	port                  int
	// from are the names of the pods that may reach it once the policies are in force.
	from []string

	addr  netip.Addr
	netns string
}

func shopPods() []*shopPod {
	return []*shopPod{
		{node: "n1", namespace: "shop", name: "web", port: 80, from: []string{"api", "db", "visitor"}},
		{node: "n2", namespace: "shop", name: "api", port: 8080, from: []string{"web"}},
		{node: "n3", namespace: "shop", name: "db", port: 5432, from: []string{"api"}},
		{node: "n1", namespace: "street", name: "visitor"},
	}
}

// shopCell is who tried to reach whom, what was expected and what was seen.
type shopCell struct {
	from, to   string
	want, seen bool
}

// policy shows who reaches whom before and after the policies of shop.yaml.
func (d *Demo) policy(ctx context.Context) (cells []shopCell, took time.Duration, err error) {
	d.say("policy: three pods of a shop and a visitor, before and after bench/shop.yaml:")
	pods := shopPods()
	defer func() { err = errors.Join(err, d.closeShop(context.WithoutCancel(ctx), pods)) }()
	if err := d.openShop(ctx, pods); err != nil {
		return nil, 0, err
	}
	for _, c := range try(ctx, pods, func(from, to *shopPod) bool { return true }) {
		if !c.seen {
			return nil, 0, fmt.Errorf("before any policy shop pod %s does not reach %s", c.from, c.to)
		}
	}
	objects, err := v3.Decode(shopYAML)
	if err != nil {
		return nil, 0, fmt.Errorf("bench/shop.yaml: %w", err)
	}
	for _, o := range objects {
		if _, err := d.store.Create(ctx, o); err != nil {
			return nil, 0, fmt.Errorf("apply bench/shop.yaml: %w", err)
		}
	}
	begin := time.Now()
	deadline := begin.Add(answerWithin)
	// The last policy opens what the first closed: in force when the first denies and this one allows.
	for connects(ctx, pods[3], pods[1], 50*time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, 0, fmt.Errorf("%v after bench/shop.yaml was applied the visitor still reaches the api", answerWithin)
		}
	}
	took = time.Since(begin)
	return try(ctx, pods, func(from, to *shopPod) bool {
		for _, n := range to.from {
			if n == from.name {
				return true
			}
		}
		return false
	}), took, nil
}

func (d *Demo) openShop(ctx context.Context, pods []*shopPod) error {
	for _, p := range pods {
		res, err := d.lab.AddPod(ctx, lab.PodSpec{Node: p.node, Namespace: p.namespace, Name: p.name,
			Labels: map[string]string{"app": p.name}, Annotations: map[string]string{podAddress: `["` + demoPool + `"]`}})
		if err != nil {
			return fmt.Errorf("attach pod %s/%s: %w", p.namespace, p.name, err)
		}
		if p.addr, err = firstAddress(res); err != nil {
			return fmt.Errorf("attach pod %s/%s: %w", p.namespace, p.name, err)
		}
		p.netns = kernel.NetnsPath(d.lab.PodNetns(p.namespace, p.name))
		if p.port == 0 {
			continue
		}
		var l net.Listener
		err = kernel.Do(p.netns, func() (err error) {
			l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(p.addr, uint16(p.port)).String())
			return err
		})
		if err != nil {
			return fmt.Errorf("serve in pod %s/%s: %w", p.namespace, p.name, err)
		}
		context.AfterFunc(ctx, func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
	}
	return nil
}

func (d *Demo) closeShop(ctx context.Context, pods []*shopPod) error {
	objects, err := v3.Decode(shopYAML)
	errs := []error{err}
	for _, o := range objects {
		_ = d.store.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{}) // it may not have come so far
	}
	for _, p := range pods {
		if p.netns != "" {
			_, err := d.lab.RemovePod(ctx, p.namespace, p.name)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// try has every pod connect to every other that serves, all at once.
func try(ctx context.Context, pods []*shopPod, want func(from, to *shopPod) bool) []shopCell {
	var cells []shopCell
	var wait sync.WaitGroup
	for _, from := range pods {
		for _, to := range pods {
			if from != to && to.port != 0 {
				cells = append(cells, shopCell{from: from.name, to: to.name + ":" + strconv.Itoa(to.port), want: want(from, to)})
			}
		}
	}
	i := 0
	for _, from := range pods {
		for _, to := range pods {
			if from == to || to.port == 0 {
				continue
			}
			c := &cells[i]
			i++
			wait.Go(func() {
				limit := silenceFor
				if c.want {
					limit = answerWithin
				}
				c.seen = connects(ctx, from, to, limit)
			})
		}
	}
	wait.Wait()
	return cells
}

// connects tells whether a TCP connection comes about within limit.
func connects(ctx context.Context, from, to *shopPod, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := kernel.Do(from.netns, func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(to.addr, uint16(to.port)).String())
		if err != nil {
			return err
		}
		return c.Close()
	})
	return err == nil
}

func writeShop(w io.Writer, cells []shopCell, took time.Duration) {
	t := newTable(w, "from", "to", "expected", "seen", "verdict")
	word := map[bool]string{true: "reaches it", false: "silence"}
	wrong := 0
	for i, c := range cells {
		if i > 0 && c.from != cells[i-1].from {
			t.AppendSeparator()
		}
		verdict := "ok"
		if c.want != c.seen {
			verdict = "WRONG"
			wrong++
		}
		t.AppendRow(table.Row{c.from, c.to, word[c.want], word[c.seen], verdict})
	}
	t.Render()
	fmt.Fprintf(w, "Policy: %d of %d verdicts wrong; the first denial was seen %d ms after the last policy was written. Before, all reached all.\n",
		wrong, len(cells), took.Milliseconds())
}

// shopFailures is an error when a verdict was wrong.
func shopFailures(cells []shopCell) error {
	var errs []error
	for _, c := range cells {
		if c.want != c.seen {
			errs = append(errs, fmt.Errorf("policy: %s to %s: expected %v, seen %v", c.from, c.to, c.want, c.seen))
		}
	}
	return errors.Join(errs...)
}
