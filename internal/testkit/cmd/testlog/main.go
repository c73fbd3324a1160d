// Testlog keeps lists of which test ran on which machine, so that a test that is skipped on one for want
// of a kernel feature, and on every other too, is noticed. It prints what go test prints.
//
//	testlog host [-o FILE] [-again N] COMMAND... -- PACKAGE...
//	                                          runs COMMAND, a go test -json, and writes the list of this machine; N failed
//	                                          tests at most are run again, alone, and say so where they pass then
//	testlog machine -name NAME [-o FILE]      reads from its standard input what a test machine of hack/vmtest.sh writes
//	testlog compare FILE...                   fails when a test that was skipped ran on no machine
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	err := errors.New("say host, machine or compare")
	if len(os.Args) > 1 {
		switch flags, args := flag.NewFlagSet("testlog "+os.Args[1], flag.ExitOnError), os.Args[2:]; os.Args[1] {
		case "host":
			err = host(flags, args)
		case "machine":
			err = machine(flags, args)
		case "compare":
			err = compareFiles(os.Stdout, args)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
		os.Exit(1)
	}
}

// host runs go test -json and reports it.
func host(flags *flag.FlagSet, args []string) error {
	out := flags.String("o", "", "where to write the list")
	verbose := flags.Bool("v", false, "print what passing tests log, too")
	limit := flags.Int("again", 0, "run failed tests again if there are no more than `N`")
	_ = flags.Parse(args)
	split := slices.Index(flags.Args(), "--")
	if split < 1 {
		return errors.New("want a command, --, and packages")
	}
	command, packages := flags.Args()[:split], flags.Args()[split+1:]
	r := newReport("host", os.Stdout, *verbose)
	err := r.goTest(command, packages...)
	if again := r.unsteadyTests(*limit); err != nil && again != nil {
		err = r.again(command, again)
	}
	return errors.Join(err, r.finish(*out))
}

// goTest runs a go test -json of packages and takes in what it tells.
func (r *report) goTest(command []string, args ...string) error {
	cmd := exec.Command(command[0], slices.Concat(command[1:], args)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	return errors.Join(r.readEvents(pipe), cmd.Wait())
}

// machine reports what the tests in a virtual machine wrote.
func machine(flags *flag.FlagSet, args []string) error {
	out := flags.String("o", "", "where to write the list")
	verbose := flags.Bool("v", false, "print what passing tests log, too")
	name := flags.String("name", "", "what the list calls the machine")
	broken := flags.String("broken", "", "a file that names packages whose tests could not be built, one a line")
	_ = flags.Parse(args)
	r := newReport(*name, os.Stdout, *verbose)
	err := r.readMachine(os.Stdin)
	if *broken != "" {
		b, readErr := os.ReadFile(*broken)
		err = errors.Join(err, readErr)
		for _, p := range strings.Fields(string(b)) {
			r.failed = append(r.failed, p)
			fmt.Fprintf(r.w, "FAIL\t%s [build failed]\t[%s]\n", p, *name)
		}
	}
	return errors.Join(err, r.finish(*out))
}

// readMachine reads the lines of hack/vmtest.d/init: packages, their tests' output, their exit codes.
func (r *report) readMachine(in io.Reader) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	var conv *converter
	var ended bool
	kernel := "the machine"
	for sc.Scan() {
		line := strings.TrimSuffix(sc.Text(), "\r")
		verb, rest := "", ""
		if l, ok := strings.CutPrefix(line, "vmtest: "); ok {
			verb, rest, _ = strings.Cut(l, " ")
		}
		switch {
		case verb == "kernel":
			kernel = rest
			r.suffix = "\t[" + kernel + "]"
		case verb == "package":
			var err error
			if conv, err = startConverter(r, rest); err != nil {
				return err
			}
		case verb == "exit" && conv != nil:
			if err := conv.end(rest); err != nil {
				return err
			}
			conv = nil
		case verb == "end":
			ended = true
		case conv != nil:
			conv.line(line)
		default:
			fmt.Fprintln(r.w, line)
		}
	}
	if conv != nil {
		if err := conv.end(""); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read what the machine writes: %w", err)
	}
	if !ended {
		return fmt.Errorf("%s ended before its tests did: a panic, or it took too long", kernel)
	}
	return nil
}

// converter turns one test program's output into events, by the go tool made for it.
type converter struct {
	r    *report
	pkg  string
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan error
}

func startConverter(r *report, pkg string) (*converter, error) {
	cmd := exec.Command("go", "tool", "test2json", "-t", "-p", pkg)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start go tool test2json: %w", err)
	}
	c := &converter{r: r, pkg: pkg, cmd: cmd, in: in, done: make(chan error, 1)}
	go func() { c.done <- r.readEvents(out) }()
	return c, nil
}

func (c *converter) line(l string) { _, _ = io.WriteString(c.in, l+"\n") }

// end says how the test program ended: its exit code, when it started and ended; or nothing.
func (c *converter) end(how string) error {
	code, start, end := "none", 0.0, 0.0
	_, _ = fmt.Sscan(how, &code, &start, &end)
	_ = c.in.Close()
	err := errors.Join(<-c.done, c.cmd.Wait())
	c.r.endPackage(c.pkg, code, end-start)
	return err
}
