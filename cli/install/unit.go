package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"weft/manifests/systemd"
)

// EnvironmentFile has the settings of the systemd unit.
const EnvironmentFile = "/etc/weft/weft.env"

const unitFile = "/etc/systemd/system/weft.service"

// ErrNoSystemd tells that this host was not booted by systemd.
var ErrNoSystemd = errors.New("systemd does not run here")

// File is one that is installed.
type File struct {
	Path, Text string
	// Keep: one that is there already stays as it is.
	Keep bool
}

// Unit returns the files of a systemd service that runs a program, which is named by its absolute path.
func Unit(program string) ([]File, error) {
	const shipped = "/usr/local/bin/weft "
	if !filepath.IsAbs(program) || strings.ContainsAny(program, " \t\n\"'\\%$") {
		return nil, fmt.Errorf("program %q: a unit takes an absolute path without blanks, quotes, percent and dollar signs: copy it to /usr/local/bin", program)
	}
	unit, err := systemd.Files.ReadFile("weft.service")
	if err != nil {
		return nil, err
	}
	settings, err := systemd.Files.ReadFile("weft.env")
	if err != nil {
		return nil, err
	}
	return []File{
		{Path: unitFile, Text: strings.ReplaceAll(string(unit), shipped, program+" ")},
		{Path: EnvironmentFile, Text: string(settings), Keep: true},
	}, nil
}

// WriteUnit writes the files below root and starts the service, now and with the host. ErrNoSystemd tells that the files
// are there and nothing runs.
func WriteUnit(ctx context.Context, root string, files []File, say func(format string, args ...any)) error {
	// These it can write to exist then: a unit may not name folders that are not there.
	folders := []string{"/etc/cni/net.d", "/opt/cni/bin"}
	for _, f := range files {
		folders = append(folders, filepath.Dir(f.Path))
	}
	for _, d := range folders {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("install the unit: %w", err)
		}
	}
	for _, f := range files {
		path := filepath.Join(root, f.Path)
		if _, err := os.Stat(path); f.Keep && err == nil {
			say("%s is there already and stays", path)
			continue
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("install the unit: %w", err)
		}
		if err := os.WriteFile(path, []byte(f.Text), 0o644); err != nil {
			return fmt.Errorf("install the unit: %w", err)
		}
		say("%s is written", path)
	}
	if _, err := os.Stat(filepath.Join(root, "run/systemd/system")); err != nil {
		return ErrNoSystemd
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "weft.service"}, {"restart", "weft.service"}} {
		if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	say("weft.service runs: weft status tells how it does")
	return nil
}
