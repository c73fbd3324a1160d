// Command weft is the node service, the ctl verbs, the lab, the demo and the bench in one binary.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"weft/bench"
	"weft/cli"
	"weft/encryption/wireguard/userspace"
	"weft/lab"
	"weft/node"
	"weft/routing/bgp/speaker"
)

// version is set by the linker: make build.
var version = "unknown"

func main() {
	root := root()
	cli.AsNamed(root, os.Args)
	os.Exit(cli.Execute(context.Background(), root))
}

func root() *cobra.Command {
	root := cli.Root(version)
	root.AddCommand(node.Command(version), node.CleanupCommand(), node.StoreCommand(), node.KeeperCommand(), lab.Command(), bench.DemoCommand(), bench.Command(version), userspace.Command(), speaker.Command())
	return root
}
