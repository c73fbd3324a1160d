package vxlan

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/tunnel"
)

// arrange finds the living device of each link, by what the kernel cannot change of it (VNI, port and
// family of the underlay), and gives it the link's name. So a device that is kept under another name
// while its successor takes the old one goes on working: routes, neighbours and forwarding entries belong
// to the interface, not to the name.
func (d *Driver) arrange(ctx context.Context, there *inventory, links []tunnel.Link) error {
	there.match(links)
	var todo []rename
	for _, l := range links {
		i, ok := there.matched[l.Name]
		if !ok || there.vxlans[i].Name == l.Name {
			continue
		}
		switch other, taken := there.links[l.Name]; {
		case !taken:
		case other.Kind != "vxlan":
			continue // somebody else's, which applyLink says
		case !there.has(other.Index):
			// It left the plan, and goes in the end.
			todo = append(todo, rename{there.byIndex(other.Index), ""})
		}
		todo = append(todo, rename{i, l.Name})
	}
	return d.renameAll(ctx, there, todo)
}

func (d *Driver) renameAll(ctx context.Context, there *inventory, todo []rename) error {
	for len(todo) > 0 {
		next := slices.IndexFunc(todo, func(r rename) bool { _, taken := there.links[r.name]; return !taken })
		if next < 0 {
			// They want each other's names; each steps aside once at most.
			next = slices.IndexFunc(todo, func(r rename) bool { return !there.renamed[there.vxlans[r.device].Index] })
			if next < 0 {
				return fmt.Errorf("rename VXLAN device %s: the name %s is taken", there.vxlans[todo[0].device].Name, todo[0].name)
			}
			if err := d.rename(ctx, there, rename{todo[next].device, ""}); err != nil {
				return err
			}
			continue
		}
		if err := d.rename(ctx, there, todo[next]); err != nil {
			return err
		}
		todo = slices.Delete(todo, next, next+1)
	}
	return nil
}

// aside returns a free name for a device whose own name another one needs, until it gets its own or
// goes.
func (i *inventory) aside() string {
	for n := 0; ; n++ {
		name := fmt.Sprintf("%s-t%d", kernel.VXLANDevice, n)
		if _, taken := i.links[name]; !taken {
			return name
		}
	}
}

// rename is one device, by its place in inventory.vxlans, and the name that it gets.
type rename struct {
	device int
	name   string // empty: aside
}

// match finds the device of each link, first by its end, then by its name.
func (i *inventory) match(links []tunnel.Link) {
	i.matched = make(map[string]int, len(links))
	byEnd := func(l tunnel.Link, named bool) {
		for n, v := range i.vxlans {
			same := v.VNI == l.VNI && v.Port == l.Port && v.Local.Is4() == l.Local.Is4() && ours(v)
			if same && (v.Name == l.Name || !named) && !i.has(v.Index) {
				i.matched[l.Name] = n
				return
			}
		}
	}
	for _, l := range links {
		byEnd(l, true)
	}
	for _, l := range links {
		if _, ok := i.matched[l.Name]; !ok {
			byEnd(l, false)
		}
	}
	for _, l := range links {
		if _, ok := i.matched[l.Name]; ok {
			continue
		}
		n := slices.IndexFunc(i.vxlans, func(v kernel.VXLAN) bool { return v.Name == l.Name })
		if n >= 0 && !i.has(i.vxlans[n].Index) {
			i.matched[l.Name] = n // to be made anew
		}
	}
}

// has tells whether the plan wants the interface with this index.
func (i *inventory) has(index int) bool {
	for _, n := range i.matched {
		if i.vxlans[n].Index == index {
			return true
		}
	}
	return false
}

func (i *inventory) byIndex(index int) int {
	return slices.IndexFunc(i.vxlans, func(v kernel.VXLAN) bool { return v.Index == index })
}

// of returns the device of a link, under the link's name.
func (i *inventory) of(l tunnel.Link) (kernel.VXLAN, bool) {
	n, ok := i.matched[l.Name]
	if !ok {
		return kernel.VXLAN{}, false
	}
	return i.vxlans[n], true
}

// rename gives a device another name. A kernel before 6.2 renames only what is down, which takes the
// routes through the device away.
func (d *Driver) rename(ctx context.Context, there *inventory, r rename) error {
	v := &there.vxlans[r.device]
	if r.name == "" {
		r.name = there.aside()
	}
	d.log.Info("renaming VXLAN device", "device", v.Name, "to", r.name, "vni", v.VNI, "port", v.Port)
	err := d.h.LinkRename(ctx, v.Index, r.name)
	if errors.Is(err, unix.EBUSY) {
		err = d.h.LinkRenameDown(ctx, v.Index, r.name, true)
	}
	if err != nil {
		return err
	}
	l := there.links[v.Name]
	delete(there.links, v.Name)
	l.Name, v.Name = r.name, r.name
	there.links[r.name] = l
	there.renamed[v.Index] = true
	return nil
}
