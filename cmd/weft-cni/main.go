// Command weft-cni is the CNI plugin: it hands the runtime's call to the node service over a Unix
// socket and prints the answer. It holds no credentials, touches nothing itself, and links next to
// nothing, since it is started for every pod.
package main

import (
	"os"

	"weft/node/cni/rpc"
)

func main() {
	os.Exit(run(call{getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		socket: rpc.DefaultSocket}))
}
