package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// TablePresent tells whether the one table is there, whoever has something in it. A kernel without nftables has none.
func TablePresent(h *kernel.Handle) (there bool, err error) {
	err = with(h, func(c *nftables.Conn) error {
		tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		for _, t := range tables {
			there = there || t.Name == kernel.NFTable
		}
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return there, nil
}

// DropTable deletes the table with all that anybody has in it: for a host that no node serves any more.
func DropTable(h *kernel.Handle) error {
	there, err := TablePresent(h)
	if err != nil || !there {
		return err
	}
	err = with(h, func(c *nftables.Conn) error {
		c.DelTable(table())
		return c.Flush()
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table inet %s: %w", kernel.NFTable, err)
	}
	return nil
}

// with calls f with a connection in the handle's namespace.
func with(h *kernel.Handle, f func(*nftables.Conn) error) error {
	ns, err := h.Namespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	return errors.Join(f(c), c.CloseLasting())
}
