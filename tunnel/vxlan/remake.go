package vxlan

import (
	"context"
	"errors"

	"weft/internal/kernel"
)

// remake replaces a device whose VNI, port or family nobody wants any more. The successor is made
// first, under another name, so that what cannot be made leaves the old one at work; then they change
// places, and the entries follow. Peers change at another instant than this host: who wants to
// receive by both devices meanwhile asks for both in the plan.
func (d *Driver) remake(ctx context.Context, there *inventory, have, want kernel.VXLAN) error {
	d.log.Info("remaking VXLAN device", "device", want.Name, "vni", want.VNI, "port", want.Port,
		"oldVNI", have.VNI, "oldPort", have.Port)
	next := want
	next.Name = spareName
	// Left there by a process that was killed half way.
	if err := d.h.LinkDelete(ctx, spareName); err != nil {
		return err
	}
	if have.VNI == want.VNI && have.Port == want.Port {
		// Two devices cannot share these: the old one goes first.
		if err := d.h.LinkDelete(ctx, have.Name); err != nil {
			return err
		}
		return d.h.AddVXLAN(ctx, want)
	}
	if err := d.h.AddVXLAN(ctx, next); err != nil {
		return there.conflict(next, err)
	}
	// It gets its port when it comes up: only then is it known that it can have it.
	err := portTaken(d.h.LinkSetUp(ctx, spareName), want.Name, want.Port)
	if err == nil {
		err = d.h.LinkSetDown(ctx, spareName)
	}
	if err != nil {
		return errors.Join(err, d.h.LinkDelete(ctx, spareName))
	}
	made, ok, err := d.h.LinkByName(ctx, spareName)
	if err := errors.Join(err, missing(ok, spareName)); err != nil {
		return err
	}
	if err := d.h.LinkDelete(ctx, have.Name); err != nil {
		return errors.Join(err, d.h.LinkDelete(ctx, spareName))
	}
	return d.h.LinkRename(ctx, made.Index, want.Name)
}
