package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"
)

// This file is about what containers that were left running have of the store: an image each, and a directory.

// size is what a container takes up, in bytes: its output, mostly. What it has written to its root filesystem goes when it ends.
func (d *detached) size() (n int64) {
	_ = filepath.WalkDir(d.dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // it is being removed
		}
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			n += fi.Size()
		}
		return nil
	})
	return n
}

// users are the containers of each image, by the digest of its manifest or index.
type users map[digest.Digest][]*detached

// imageUsers finds out which images have containers. A container whose image is not there any more has none.
func imageUsers(local *image.Local, list []*detached) (users, error) {
	out := users{}
	for _, d := range list {
		set, err := local.Get(d.Image)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[set.Descriptor.Digest] = append(out[set.Descriptor.Digest], d)
	}
	return out, nil
}

// size is how many bytes of layers these images have.
func (u users) size(local *image.Local) (n int64, err error) {
	seen := map[digest.Digest]bool{}
	for d := range u {
		set, err := local.Get(d.String())
		if err != nil {
			return 0, err
		}
		for _, b := range set.Images {
			for _, l := range b.Layers {
				if !seen[l.Descriptor.Digest] {
					seen[l.Descriptor.Digest] = true
					n += l.Descriptor.Size
				}
			}
		}
	}
	return n, nil
}

// refuseUsed keeps the last name of an image that a container was made of, as Docker does: whoever means it says --force.
func (in invocation) refuseUsed(c *cli.Context, local *image.Local, ref string) error {
	if c.Bool("force") {
		return nil
	}
	list, err := in.detachedContainers(c)
	if err != nil || len(list) == 0 {
		return err
	}
	used, err := imageUsers(local, list)
	if err != nil {
		return err
	}
	set, err := local.Get(ref)
	if err != nil {
		return nil // the removal will say what is wrong
	}
	names, err := local.Names(ref)
	if err != nil {
		return err
	}
	by := used[set.Descriptor.Digest]
	if n, err := image.Normalize(ref); len(by) == 0 || err == nil && len(names) > 1 && slices.Contains(names, n) {
		return nil // it keeps other names
	}
	return failf("image %s is used by container %s", ref, by[0].Name).withHint("cairn rm %s, or rmi --force", by[0].Name)
}

// pruneContainers removes the containers that have ended, and returns how many bytes that gave back. Containers have no labels: a filter for some
// keeps them all.
func (in invocation) pruneContainers(p pruning) (freed int64, err error) {
	if len(p.filters["label"]) > 0 {
		return 0, nil
	}
	until := p.filters.until()
	wrote := false
	for _, d := range p.containers {
		if d.running() || !until.IsZero() && !d.Created.Before(until) {
			continue
		}
		size := d.size()
		if err := os.RemoveAll(d.dir); err != nil {
			return freed, fmt.Errorf("removing container %s: %w", d.Name, err)
		}
		freed += size
		if !wrote {
			_, _ = fmt.Fprintln(in.stdout, "Deleted Containers:")
			wrote = true
		}
		if _, err := fmt.Fprintln(in.stdout, d.ID); err != nil {
			return freed, err
		}
	}
	if wrote {
		_, _ = fmt.Fprintln(in.stdout)
	}
	return freed, nil
}
