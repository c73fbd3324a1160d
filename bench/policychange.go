package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// changes makes one change after the other, each when the node has come to rest, and notes when the kernel's rules changed
// for the last time, beside when the store told of it.
func (m *policyRun) changes(ctx context.Context, what string, change func(context.Context, int) error, times *[]time.Duration, cpu, store *time.Duration) error {
	pid, err := pidOf(ctx, m.lab)
	if err != nil {
		return err
	}
	if err := calm(ctx, pid); err != nil {
		return err
	}
	before, err := cpuTime(pid)
	if err != nil {
		return err
	}
	var told []float64
	for i := range m.Changes {
		m.step(fmt.Sprintf("%s, %s %d", m.backend, what, i+1))
		took, echo, err := m.change(ctx, pid, i, change)
		if err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
		*times, told = append(*times, took), append(told, echo[0].Seconds())
		if err := m.sheet.add(m.backend, m.setting(), i+1, seconds(what, took), seconds(what+"_told", echo[0]),
			lessIsBetter(what+"_of_told", took.Seconds(), echo[0].Seconds()),
			control(what+"_of_told", echo[1].Seconds(), echo[0].Seconds())); err != nil {
			return err
		}
	}
	after, err := cpuTime(pid)
	if err != nil {
		return err
	}
	*cpu, *store = (after-before)/time.Duration(m.Changes), time.Duration(median(told)*float64(time.Second))
	return m.sheet.add(m.backend, m.setting(), 0, seconds(what+"_cpu", *cpu), count(what+"s", m.Changes))
}

// change makes one change and waits until the node is at rest.
func (m *policyRun) change(ctx context.Context, pid, i int, change func(context.Context, int) error) (took time.Duration, echo [2]time.Duration, err error) {
	for len(m.events) > 0 {
		<-m.events
	}
	m.echoes.drain()
	begin := time.Now()
	if err := change(ctx, i); err != nil {
		return 0, echo, err
	}
	var last time.Time
	select {
	case last = <-m.events:
	case <-ctx.Done():
		return 0, echo, context.Cause(ctx)
	case <-time.After(10 * time.Second):
		return 0, echo, errors.New("the kernel's rules did not change within 10 s")
	}
	if err := calm(ctx, pid); err != nil {
		return 0, echo, err
	}
	for len(m.events) > 0 {
		last = <-m.events
	}
	echo, err = m.echoes.after(begin)
	return last.Sub(begin), echo, err
}

func (m *policyRun) changePolicy(ctx context.Context, i int) error {
	_, err := m.store.Update(ctx, globalPolicy(i*37%m.Policies, 1+i*37/m.Policies))
	return err
}

// changeLabel moves one endpoint of another node from one set to another.
func (m *policyRun) changeLabel(ctx context.Context, i int) error {
	return m.relabel(ctx, i*101%m.Endpoints, i)
}

func (m *policyRun) relabel(ctx context.Context, i, version int) error {
	w := remote(i)
	for k := range 2 {
		k = (version + k) % policyLabels
		w.Labels[fmt.Sprintf("k%d", k)] = fmt.Sprintf("v%d", (i*7+k*3+i/policyValues+1+version%(policyValues-1))%policyValues)
	}
	_, err := m.store.Update(ctx, w)
	return err
}
