// Command image packs static binaries into a container image in a tar file, without a registry or a daemon:
// containerd imports it by "ctr -n k8s.io images import", Docker and Podman by "load". The same binaries give the same
// bytes.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	out := flag.String("o", "weft.tar", "the file to write")
	var tags []string
	flag.Func("tag", "a `name` of the image, such as localhost/weft:dev; may be given several times", func(s string) error { tags = append(tags, s); return nil })
	limit := flag.Float64("limit", 0, "`MB` that the image may have at most, unpacked; 0: any")
	cmd := flag.String("cmd", "", "the first `argument` of what it runs, when a container names none")
	flag.Parse()
	if err := pack(*out, tags, flag.Args(), *cmd, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// pack puts the files into the image's root, or where PATH=FILE says; the first is what it runs. An image of more than limit
// MB, unpacked, is not made.
func pack(out string, tags, files []string, cmd string, limit float64) error {
	if len(files) == 0 || len(tags) == 0 {
		return fmt.Errorf("name the image and the binaries to pack: image -o FILE -tag NAME [PATH=]BINARY...")
	}
	content, err := archive(files)
	if err != nil {
		return err
	}
	if size := float64(len(content)) / 1e6; limit > 0 && size > limit {
		return fmt.Errorf("the image %s has %.1f MB unpacked, of which %s, and may have %.1f MB: find what made a binary grow (go version -m, go tool nm -size), or raise the limit where the image is made",
			tags[0], size, sizes(files), limit)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = runtime.GOARCH, "linux"
	first, _ := place(files[0])
	config.Config = v1.Config{Entrypoint: []string{"/" + first}, Env: []string{"PATH=/"}}
	if cmd != "" {
		config.Config.Cmd = []string{cmd}
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	named := map[name.Reference]v1.Image{}
	for _, t := range tags {
		ref, err := name.NewTag(t)
		if err != nil {
			return fmt.Errorf("name of the image: %w", err)
		}
		named[ref] = image
	}
	if err := tarball.MultiRefWriteToFile(out, named); err != nil {
		return err
	}
	st, err := os.Stat(out)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s, %.1f MB, %.1f MB unpacked\n", out, strings.Join(tags, ", "), float64(st.Size())/1e6, float64(len(content))/1e6)
	return nil
}

// sizes says how large each file is.
func sizes(files []string) string {
	var all []string
	for _, f := range files {
		_, f := place(f)
		if st, err := os.Stat(f); err == nil {
			all = append(all, fmt.Sprintf("%s %.1f MB", filepath.Base(f), float64(st.Size())/1e6))
		}
	}
	return strings.Join(all, ", ")
}

// place tells where in the image a file goes.
func place(arg string) (path, file string) {
	if path, file, found := strings.Cut(arg, "="); found {
		return strings.TrimPrefix(path, "/"), file
	}
	return filepath.Base(arg), arg
}

// archive is a layer: the files, for everybody to run, without times and owners.
func archive(files []string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		path, f := place(f)
		content, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
