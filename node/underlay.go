package node

import (
	"context"
	"reflect"
	"sync"

	"weft/internal/kernel"
	"weft/model"
)

// underlay keeps this host's own links and routes, read again only after an event about them.
type underlay struct {
	read   func(context.Context) (model.Underlay, error)
	notify func() // something about it changed; optional

	reading    sync.Mutex // held during a read: whoever asks meanwhile waits for what it brings
	mu         sync.Mutex // guards what follows; never held for long
	valid      bool
	generation uint64
	current    model.Underlay
}

func (u *underlay) invalidate() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.valid = false
}

// get returns the underlay and a number that grows when it was read again.
func (u *underlay) get(ctx context.Context) (model.Underlay, uint64, error) {
	u.reading.Lock()
	defer u.reading.Unlock()
	u.mu.Lock()
	if u.valid {
		defer u.mu.Unlock()
		return u.current, u.generation, nil
	}
	u.valid = true // an event during the read makes it invalid again
	u.mu.Unlock()
	read, err := u.read(ctx)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.valid = false
		return model.Underlay{}, 0, err
	}
	if u.generation == 0 || !reflect.DeepEqual(u.current, read) {
		u.current = read
		u.generation++
	}
	return u.current, u.generation, nil
}

// observe tells whether an event is about the underlay: links, addresses and routes that are not
// ours.
func (u *underlay) observe(ev kernel.Event) bool {
	switch ev.Kind {
	case kernel.EventRoute:
		if ev.Protocol == kernel.RouteProtocol || ev.RouteKey.Table != kernel.MainTable {
			return false
		}
	case kernel.EventLink, kernel.EventAddr:
	default:
		return false
	}
	if name := deviceOf(ev); kernel.Owned(name) || name == "lo" {
		return false
	}
	u.invalidate()
	if u.notify != nil {
		u.notify()
	}
	return true
}

func deviceOf(ev kernel.Event) string {
	if ev.Kind == kernel.EventRoute && ev.Route.Device != "" {
		return ev.Route.Device
	}
	return ev.Link.Name
}
