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
	flag.Parse()
	if err := pack(*out, tags, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// pack puts the files into the image's root; the first is what it runs.
func pack(out string, tags, files []string) error {
	if len(files) == 0 || len(tags) == 0 {
		return fmt.Errorf("name the image and the binaries to pack: image -o FILE -tag NAME BINARY...")
	}
	content, err := archive(files)
	if err != nil {
		return err
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
	config.Config = v1.Config{Entrypoint: []string{"/" + filepath.Base(files[0])}, Env: []string{"PATH=/"}}
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
	fmt.Printf("%s: %s, %.1f MB\n", out, strings.Join(tags, ", "), float64(st.Size())/1e6)
	return nil
}

// archive is a layer: the files, for everybody to run, without times and owners.
func archive(files []string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.Base(f), Mode: 0o755, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
