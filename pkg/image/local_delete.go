package image

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cairn-build/cairn/pkg/store"
	"github.com/distribution/reference"
	dockerimage "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
)

// ErrConflict is that of an image that cannot be deleted because of others.
var ErrConflict = errors.New("conflict")

// DeleteOptions say what Delete may do.
type DeleteOptions struct {
	// Force deletes an image given by its ID although it has names in several repositories.
	Force bool
	// NoPrune keeps the images without a name that the deleted one was made from.
	NoPrune bool
}

// Delete takes a name away, as `docker rmi` does. The image goes with its last name, unless others were made from it. Given by
// its ID, an image goes with all its names. It returns what happened in that order; what is removed of the content is for the
// store's garbage collection. A name whose record is damaged can be taken away too.
func (lo *Local) Delete(ref string, o DeleteOptions) ([]dockerimage.DeleteResponse, error) {
	if name, err := Normalize(ref); err == nil {
		if _, err := lo.store.Ref(name); errors.Is(err, store.ErrCorrupt) {
			return untagged(name, lo.store.DeleteRef(name))
		}
	}
	f, err := lo.find(ref)
	if err != nil {
		return nil, err
	}
	all, err := lo.entriesOf(f.id)
	if err != nil {
		return nil, err
	}
	children, err := lo.childrenOf(f.id)
	if err != nil {
		return nil, err
	}
	if f.byID {
		if len(children) > 0 {
			return nil, fmt.Errorf("%w: unable to delete %s (cannot be forced): image has dependent child images", ErrConflict, ref)
		}
		if len(repositories(all)) > 1 && !o.Force {
			return nil, fmt.Errorf("%w: unable to delete %s (must be forced): image is referenced in multiple repositories", ErrConflict, ref)
		}
		return lo.deleteImage(f.id, all, o)
	}
	rest := slices.DeleteFunc(slices.Clone(all), func(e Entry) bool { return e.Name == f.names[0] })
	if !slices.ContainsFunc(rest, func(e Entry) bool { return !isCanonical(e.Name) }) && len(children) == 0 {
		return lo.deleteImage(f.id, all, o) // what is left are names that end in its digest
	}
	if len(rest) == 0 {
		if err := lo.store.SetRef(f.desc.Digest.String(), f.desc); err != nil {
			return nil, fmt.Errorf("keeping image %s: %w", f.id, err)
		}
	}
	return untagged(f.names[0], lo.store.DeleteRef(f.names[0]))
}

func untagged(name string, err error) ([]dockerimage.DeleteResponse, error) {
	if err != nil {
		return nil, err
	}
	return []dockerimage.DeleteResponse{{Untagged: Familiar(name)}}, nil
}

// deleteImage removes an image with all its names, and the nameless ones it was made from.
func (lo *Local) deleteImage(id ID, names []Entry, o DeleteOptions) ([]dockerimage.DeleteResponse, error) {
	var out []dockerimage.DeleteResponse
	parent, err := (*localBackend)(lo).parentOf(id)
	if err != nil {
		return nil, err
	}
	if err := lo.remove(names); err != nil {
		return nil, err
	}
	for _, e := range names {
		if e.Named() {
			out = append(out, dockerimage.DeleteResponse{Untagged: Familiar(e.Name)})
		}
	}
	out = append(out, dockerimage.DeleteResponse{Deleted: id.String()})
	if parent == "" || o.NoPrune {
		return out, nil
	}
	above, err := lo.entriesOf(parent)
	if err != nil {
		return out, err
	}
	children, err := lo.childrenOf(parent)
	if err != nil || len(above) == 0 || len(children) > 0 || slices.ContainsFunc(above, Entry.Named) {
		return out, err
	}
	more, err := lo.deleteImage(parent, above, o)
	return append(out, more...), err
}

// remove takes names away, and what is known of the images that no name leads to then.
func (lo *Local) remove(names []Entry) error {
	for _, e := range names {
		if err := lo.store.DeleteRef(e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing name %s: %w", e.Name, err)
		}
	}
	return lo.forgetLost(names)
}

// forgetLost removes what is known of those images behind names that have gone to which no other name leads.
func (lo *Local) forgetLost(names []Entry) error {
	for _, e := range names {
		for _, id := range e.IDs {
			left, err := lo.entriesWith(id)
			if err != nil {
				return err
			}
			if len(left) > 0 {
				continue
			}
			if err := lo.forget(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget removes what is known of an image besides its config, and its children's link to it.
func (lo *Local) forget(id ID) error {
	children, err := lo.childrenOf(id)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := lo.store.DeleteRecord(metadataBucket, metadataKey(child.Digest(), parentKey)); err != nil {
			return err
		}
	}
	for _, key := range []string{parentKey, lastUpdatedKey, builtLocallyKey} {
		if err := lo.store.DeleteRecord(metadataBucket, metadataKey(id.Digest(), key)); err != nil {
			return err
		}
	}
	return nil
}

// entriesOf returns the names of an image; of one that is only in indexes, their names.
func (lo *Local) entriesOf(id ID) ([]Entry, error) {
	entries, err := lo.entriesWith(id)
	if own := slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool { return e.ID() != id }); len(own) > 0 {
		return own, err
	}
	return entries, err
}

// entriesWith returns all names that lead to an image, by itself or in an index.
func (lo *Local) entriesWith(id ID) ([]Entry, error) {
	entries, err := lo.List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(entries, func(e Entry) bool { return e.ID() != id && !slices.Contains(e.IDs, id) }), nil
}

// childrenOf returns the images that were made from one.
func (lo *Local) childrenOf(id ID) ([]ID, error) {
	var children []ID
	b := (*localBackend)(lo)
	err := b.Walk(func(d digest.Digest) error {
		parent, err := b.parentOf(ID(d))
		if err == nil && parent == id {
			children = append(children, ID(d))
		}
		return err
	})
	return children, err
}

// parentOf returns the image that another one was made from, "" for none.
func (b *localBackend) parentOf(id ID) (ID, error) {
	data, err := b.GetMetadata(id.Digest(), parentKey)
	return ID(data), ignoreMissing(err)
}

// repositories are the different repositories of names.
func repositories(entries []Entry) []string {
	var out []string
	for _, e := range entries {
		if r, err := reference.ParseNormalizedNamed(e.Name); err == nil && e.Named() && !slices.Contains(out, r.Name()) {
			out = append(out, r.Name())
		}
	}
	return out
}

// isCanonical reports whether a name ends in a digest, or is one.
func isCanonical(name string) bool {
	if isDigest(name) {
		return true
	}
	r, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	_, ok := r.(reference.Canonical)
	return ok
}

// Familiar returns the short form of a name: "docker.io/library/app:v1" is "app:v1". What is no name is returned as it is.
func Familiar(name string) string {
	r, err := reference.ParseNormalizedNamed(name)
	if err != nil || isDigest(name) {
		return name
	}
	return reference.FamiliarString(r)
}
