package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v3 "weft/api/v3"
)

// maxInput bounds one file or standard input, in bytes.
const maxInput = 256 << 20

// input is one resource of the files that a command was given.
type input struct {
	source string // the file, or "standard input"
	object v3.Object
	kind   v3.KindInfo
}

// addFileFlag adds -f.
func addFileFlag(c *cobra.Command, files *[]string) {
	c.Flags().StringArrayVarP(files, "filename", "f", nil, "`file` or directory of resources (YAML or JSON), or - for standard input; may be repeated")
	if err := c.MarkFlagFilename("filename", "yaml", "yml", "json"); err != nil {
		panic(err) // the flag was defined a line above
	}
}

// readInputs reads, decodes and checks every document of the files and directories. It returns
// either all of them or everything that is wrong.
func readInputs(files []string, stdin io.Reader, namespace inNamespace) ([]input, error) {
	var all []input
	var errs []error
	paths, err := expand(files)
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		in, err := readInput(p, stdin, namespace)
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, in...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("read resources from %s: there are none in it", strings.Join(files, ", "))
	}
	return all, nil
}

// expand replaces directories by the resource files below them, in the order of their names.
func expand(files []string) ([]string, error) {
	var paths []string
	for _, f := range files {
		if f == "-" {
			if slices.Contains(paths, "-") {
				return nil, Usagef("standard input (-f -) is given twice")
			}
			paths = append(paths, f)
			continue
		}
		info, err := os.Stat(f)
		if err != nil {
			return nil, fmt.Errorf("read resources from %s: %w; give -f a file, a directory or -", f, pathCause(err))
		}
		if !info.IsDir() {
			paths = append(paths, f)
			continue
		}
		found := 0
		err = filepath.WalkDir(f, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(p))) {
				paths = append(paths, p)
				found++
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read resources below %s: %w", f, err)
		}
		if found == 0 {
			return nil, fmt.Errorf("read resources below %s: no file ends in .yaml, .yml or .json; give -f a directory that has one", f)
		}
	}
	return paths, nil
}

func pathCause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func readInput(path string, stdin io.Reader, namespace inNamespace) ([]input, error) {
	source := path
	if path == "-" {
		source = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read resources from %s: %w", source, pathCause(err))
		}
		defer f.Close()
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read resources from %s: %w", source, err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("read resources from %s: it has more than %d MiB; split it", source, maxInput>>20)
	}
	objects, err := v3.Decode(data)
	if err != nil {
		return nil, inFile(source, err)
	}
	in := make([]input, 0, len(objects))
	var errs []error
	for _, o := range objects {
		i, err := checkInput(source, o, namespace)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		in = append(in, i)
	}
	return in, errors.Join(errs...)
}

// inFile puts the file's name before each of joined errors.
func inFile(source string, err error) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || !strings.Contains(err.Error(), "\n") {
		return fmt.Errorf("read %s: %w", source, err)
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		errs = append(errs, fmt.Errorf("read %s: %w", source, e))
	}
	return errors.Join(errs...)
}

// inNamespace is what -n says of documents that name no namespace; empty: nothing.
type inNamespace struct {
	name string
	// given on the command line: documents that name another are refused.
	given bool
}

func namespaceOf(cmd *cobra.Command, name string) inNamespace {
	return inNamespace{name, cmd.Flags().Changed("namespace")}
}

// checkInput defaults and validates one document.
func checkInput(source string, o v3.Object, namespace inNamespace) (input, error) {
	name, _ := v3.KindOf(o)
	kind, ok := v3.LookupKind(name)
	if !ok {
		return input{}, fmt.Errorf("read %s: unknown kind %q; want %s", source, o.GetObjectKind().GroupVersionKind().Kind, oneOf(kindNames(false)))
	}
	if kind.Namespaced {
		switch given := o.GetNamespace(); {
		case given == "" && namespace.name == "":
			o.SetNamespace(defaultNamespace)
		case given == "":
			o.SetNamespace(namespace.name)
		case namespace.given && given != namespace.name:
			return input{}, fmt.Errorf("read %s: %s is in namespace %q, but -n says %q; leave one of them out", source, refOf(kind, o.GetName()), given, namespace.name)
		}
	}
	v3.Default(o)
	if err := v3.Validate(o); err != nil {
		return input{}, fmt.Errorf("read %s: %s: %w", source, refOf(kind, o.GetName()), err)
	}
	return input{source, o, kind}, nil
}
