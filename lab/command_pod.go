package lab

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
)

func podCommand(open opener) *cobra.Command {
	c := &cobra.Command{
		Use:   "pod",
		Short: "Attach, detach and label pods",
	}
	c.AddCommand(podAddCommand(open), podRemoveCommand(open), podLabelCommand(open))
	return c
}

func podAddCommand(open opener) *cobra.Command {
	var labels, annotations, ports []string
	var spec PodSpec
	c := &cobra.Command{
		Use:   "add NODE NAMESPACE/NAME",
		Short: "Attach a pod to a node by CNI ADD and print the result",
		Long: `add makes a network namespace and calls weft-cni through libcni, as the container runtime of the
node would. It prints the CNI result as JSON. A pod that cannot be attached leaves nothing.`,
		Example: "  weft lab pod add n1 default/web --label app=web --port http:TCP:8080",
	}
	f := c.Flags()
	f.StringArrayVar(&labels, "label", nil, "label `KEY=VALUE` of the pod; may be repeated")
	f.StringArrayVar(&annotations, "annotation", nil, "annotation `KEY=VALUE` of the pod; may be repeated")
	f.StringArrayVar(&ports, "port", nil, "named port `NAME:PROTOCOL:PORT` of the pod; may be repeated")
	f.StringVar(&spec.ServiceAccount, "service-account", "", "service account `name` of the pod")
	c.Args = func(_ *cobra.Command, args []string) (err error) {
		if len(args) != 2 {
			return fmt.Errorf("want NODE and NAMESPACE/NAME, got %d arguments", len(args))
		}
		spec.Node = args[0]
		if err := CheckName(spec.Node); err != nil {
			return fmt.Errorf("node: %w", err)
		}
		spec.Namespace, spec.Name, err = ParsePodName(args[1])
		return err
	}
	c.PreRunE = func(*cobra.Command, []string) (err error) {
		if spec.Labels, err = parsePairs("--label", labels, checkLabel); err != nil {
			return err
		}
		if spec.Annotations, err = parsePairs("--annotation", annotations, checkAnnotation); err != nil {
			return err
		}
		if spec.Ports, err = parsePorts(ports); err != nil {
			return err
		}
		if bad := validation.IsDNS1123Subdomain(spec.ServiceAccount); spec.ServiceAccount != "" && len(bad) > 0 {
			return fmt.Errorf("--service-account %q: %s", spec.ServiceAccount, strings.Join(bad, "; "))
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := open(cmd)
		if err != nil {
			return err
		}
		res, err := l.AddPod(cmd.Context(), spec)
		if err != nil {
			return err
		}
		return printJSON(cmd.OutOrStdout(), res)
	}
	return c
}

// parsePairs reads KEY=VALUE flags.
func parsePairs(flag string, pairs []string, check func(k, v string) error) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok {
			return nil, fmt.Errorf("%s %q: want KEY=VALUE", flag, p)
		}
		if err := check(k, v); err != nil {
			return nil, fmt.Errorf("%s %q: %w", flag, p, err)
		}
		out[k] = v
	}
	return out, nil
}

func checkAnnotation(key, _ string) error {
	if bad := validation.IsQualifiedName(strings.ToLower(key)); len(bad) > 0 {
		return errors.New(strings.Join(bad, "; "))
	}
	return nil
}

// parsePorts reads NAME:PROTOCOL:PORT flags.
func parsePorts(flags []string) ([]Port, error) {
	var out []Port
	for _, s := range flags {
		f := strings.Split(s, ":")
		if len(f) != 3 {
			return nil, fmt.Errorf("--port %q: want NAME:PROTOCOL:PORT such as http:TCP:8080", s)
		}
		p := Port{Name: f[0], Protocol: strings.ToUpper(f[1])}
		if bad := validation.IsValidPortName(p.Name); len(bad) > 0 {
			return nil, fmt.Errorf("--port %q: name: %s", s, strings.Join(bad, "; "))
		}
		if p.Protocol != "TCP" && p.Protocol != "UDP" && p.Protocol != "SCTP" {
			return nil, fmt.Errorf("--port %q: protocol: want TCP, UDP or SCTP", s)
		}
		n, err := strconv.ParseUint(f[2], 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("--port %q: port: want 1 to 65535", s)
		}
		p.Port = uint16(n)
		out = append(out, p)
	}
	return out, nil
}

func podRemoveCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAMESPACE/NAME",
		Short: "Detach a pod by CNI DEL and remove its namespace",
		Long: `rm removes a pod. One that does not exist is not an error. When the node is stopped the pod is
removed all the same, and its addresses are released when the node starts again.`,
		Args: onePod,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open(cmd)
			if err != nil {
				return err
			}
			ns, name, err := ParsePodName(args[0])
			if err != nil {
				return err
			}
			r, err := l.RemovePod(cmd.Context(), ns, name)
			switch {
			case err != nil:
				return err
			case !r.Found:
				l.say("lab %s has no pod %s: nothing to do", l.name, args[0])
			case r.Owed != nil:
				l.say("pod %s is removed; its addresses are released when its node starts again (%s)", args[0], printable(r.Owed.Error()))
			default:
				l.say("pod %s is removed", args[0])
			}
			return nil
		},
	}
}

func onePod(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one NAMESPACE/NAME, got %d arguments", len(args))
	}
	_, _, err := ParsePodName(args[0])
	return err
}

func podLabelCommand(open opener) *cobra.Command {
	var change LabelChange
	c := &cobra.Command{
		Use:                   "label NAMESPACE/NAME KEY=VALUE... KEY-...",
		Short:                 "Set and remove labels of a pod",
		Example:               "  weft lab pod label default/web app=web tier-",
		DisableFlagsInUseLine: true,
	}
	c.Args = func(_ *cobra.Command, args []string) (err error) {
		if len(args) < 2 {
			return errors.New("want NAMESPACE/NAME and at least one KEY=VALUE or KEY-")
		}
		if _, _, err := ParsePodName(args[0]); err != nil {
			return err
		}
		change, err = ParseLabelChange(args[1:])
		return err
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := open(cmd)
		if err != nil {
			return err
		}
		ns, name, err := ParsePodName(args[0])
		if err != nil {
			return err
		}
		labels, err := l.LabelPod(cmd.Context(), ns, name, change)
		if err != nil {
			return err
		}
		for _, k := range sortedKeys(labels) {
			fmt.Fprintf(cmd.OutOrStdout(), "%s=%s\n", k, labels[k])
		}
		return nil
	}
	return c
}
