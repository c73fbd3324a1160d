package lab

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// completeNames completes the names of the lab's nodes and pods where a command's usage asks for them. A lab
// that is not up, or not to be read, completes nothing.
func completeNames(c *cobra.Command, open opener) {
	for _, sub := range c.Commands() {
		completeNames(sub, open)
	}
	words := strings.Fields(c.Use)
	if len(words) < 2 {
		return
	}
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) > 0 {
			return nil, none
		}
		l, err := open(cmd)
		if err != nil {
			return nil, none
		}
		s, err := l.Status(cmd.Context())
		if err != nil {
			return nil, none
		}
		var names []string
		for _, n := range s.Nodes {
			if strings.Contains(words[1], "NODE") {
				names = append(names, n.Name)
			}
			for _, p := range n.Pods {
				if strings.Contains(words[1], "NAMESPACE/NAME") {
					names = append(names, p.Namespace+"/"+p.Name)
				}
			}
		}
		slices.Sort(names)
		return names, none
	}
}
