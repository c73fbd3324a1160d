// Command weft is the node service, the ctl verbs, the lab and the bench in one binary.
package main

import (
	"context"
	"os"

	"weft/bench"
	"weft/cli"
	"weft/lab"
	"weft/node"
)

// version is set by the linker: make build.
var version = "unknown"

func main() {
	root := cli.Root(version)
	root.AddCommand(node.Command(version), node.StoreCommand(), lab.Command(),
		bench.DemoCommand(), bench.Command())
	os.Exit(cli.Execute(context.Background(), root))
}
