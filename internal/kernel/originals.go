package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
)

// Originals remembers, in a file, what settings of the host were before they were first changed, so that they can be
// put back. The file belongs into a directory that a reboot empties, as it does the settings. A nil Originals
// remembers nothing.
type Originals struct {
	path string

	mu  sync.Mutex
	all map[string]original // by sysctl, as SetSysctl names it
}

type original struct {
	Was string `json:"was"`
	Now string `json:"now"`
	// With is what other settings were, which the kernel changes together with this one.
	With map[string]string `json:"with,omitempty"`
}

// OpenOriginals reads the file at path, which need not exist yet.
func OpenOriginals(path string) (*Originals, error) {
	o := &Originals{path: path, all: map[string]original{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &o.all)
	}
	if err != nil {
		return nil, fmt.Errorf("read what sysctls were before, from %s: %w", path, err)
	}
	return o, nil
}

// Note writes down what a setting was, unless that is known. It comes before the change. with are settings that the
// kernel changes together with this one; those that do not exist are passed over.
func (o *Originals) Note(sysctl, was, now string, with ...string) error {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.all[sysctl]; known {
		return nil
	}
	noted := original{Was: was, Now: now}
	for _, w := range with {
		v, err := GetSysctl(w)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if noted.With == nil {
			noted.With = map[string]string{}
		}
		noted.With[w] = v
	}
	o.all[sysctl] = noted
	b, err := json.MarshalIndent(o.all, "", "  ")
	if err == nil {
		if err = os.WriteFile(o.path+".new", append(b, '\n'), 0o600); err == nil {
			err = os.Rename(o.path+".new", o.path)
		}
	}
	if err != nil {
		delete(o.all, sysctl)
		return fmt.Errorf("note that sysctl %s was %s: %w", sysctl, was, err)
	}
	return nil
}

// Changed lists the settings that still are as this host's node made them, each as "PATH = NOW (was WAS)".
func (o *Originals) Changed() ([]string, error) {
	var out []string
	err := o.each(func(sysctl string, c original) error {
		out = append(out, fmt.Sprintf("%s = %s (was %s)", sysctl, c.Now, c.Was))
		return nil
	})
	return out, err
}

// Restore puts those settings back. One that somebody else has changed since is left as it is.
func (o *Originals) Restore() error {
	return o.each(func(sysctl string, c original) error {
		errs := []error{SetSysctl(sysctl, c.Was)}
		for _, w := range slices.Sorted(maps.Keys(c.With)) {
			if err := SetSysctl(w, c.With[w]); !errors.Is(err, fs.ErrNotExist) { // else of an interface that went
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

func (o *Originals) each(f func(sysctl string, c original) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, sysctl := range slices.Sorted(maps.Keys(o.all)) {
		have, err := GetSysctl(sysctl)
		if errors.Is(err, fs.ErrNotExist) { // of an interface that went
			continue
		}
		if err == nil && have == o.all[sysctl].Now && have != o.all[sysctl].Was {
			err = f(sysctl, o.all[sysctl])
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
