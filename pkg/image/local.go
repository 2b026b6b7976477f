package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/cairn-build/cairn/pkg/store"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The most bytes a manifest or index, and a config, may have (SECURITY: oversized documents).
const (
	maxManifest = 8 << 20
	maxConfig   = 16 << 20
	maxLayers   = 1000
)

// Local is the images of a store: by name here, by ID as Store. It is safe for concurrent use, also by several processes.
type Local struct {
	store *store.Store

	mu sync.Mutex
	// configs remembers which config a manifest has: content never changes.
	configs map[digest.Digest]digest.Digest
	// manifests are those by which the configs of images were seen when all names were last looked at.
	manifests map[digest.Digest]ocispec.Descriptor
}

// NewLocal returns the images of s.
func NewLocal(s *store.Store) *Local {
	return &Local{store: s, configs: map[digest.Digest]digest.Digest{}}
}

// Entry is one name in the local store.
type Entry struct {
	// Name is a normalised reference ("docker.io/library/app:v1"), or the digest of the manifest for an image without a name.
	Name       string
	Descriptor ocispec.Descriptor
	// IDs are the image IDs: one, or of an index those of the images that are held.
	IDs []ID
}

// ID is what the image is called by: the image ID, or the digest of an index.
func (e Entry) ID() ID {
	if isIndex(e.Descriptor.MediaType) || len(e.IDs) == 0 {
		return ID(e.Descriptor.Digest)
	}
	return e.IDs[0]
}

// Named reports whether the image has a name at all.
func (e Entry) Named() bool { return !isDigest(e.Name) }

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndex
}

func isDigest(name string) bool {
	_, err := digest.Parse(name)
	return err == nil
}

// Put keeps an image that was built here under names (its digest, if there are none) and returns the names as they were written.
// Layers whose bytes the store does not hold are remembered with their Origin, to be fetched when they are needed. What a name
// stood for before is superseded: it does not stay without a name, as it would with Tag.
func (lo *Local) Put(ctx context.Context, set Set, names []string) ([]string, error) {
	names, err := lo.keep(ctx, set, names)
	if err != nil {
		return nil, err
	}
	for _, b := range set.Images {
		if err := lo.setMetadata(b.ConfigDescriptor.Digest, builtLocallyKey, []byte{1}); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// keep is Put for images that came from elsewhere.
func (lo *Local) keep(ctx context.Context, set Set, names []string) ([]string, error) {
	refs := make([]string, 0, len(names))
	for _, n := range names {
		r, err := Normalize(n)
		if err != nil {
			return nil, err
		}
		refs = append(refs, r)
	}
	if len(refs) == 0 {
		refs = append(refs, set.Descriptor.Digest.String())
	}
	for _, b := range set.Images {
		if err := lo.keepOne(ctx, b); err != nil {
			return nil, err
		}
	}
	if set.Index != nil {
		if _, err := lo.store.PutBlob(ctx, set.Descriptor.MediaType, set.Index); err != nil {
			return nil, fmt.Errorf("keeping index %s: %w", set.Descriptor.Digest, err)
		}
	}
	for _, r := range refs {
		if _, err := lo.take(r, set.Descriptor, false); err != nil {
			return nil, err
		}
	}
	if len(names) > 0 {
		return refs, lo.dropNameless(set.Descriptor)
	}
	return refs, nil
}

// take gives a name to what d points to, and returns the ID of the image that lost it, "" for none. If it was that one's last
// name, the image stays without one if keep is set or others were made from it.
func (lo *Local) take(name string, d ocispec.Descriptor, keep bool) (lost ID, err error) {
	old, err := lo.store.Ref(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("naming %s: %w", name, err)
	}
	var last []Entry
	if err == nil && old.Digest != d.Digest {
		if lost = lo.idOf(old); lost == lo.idOf(d) {
			lost = ""
		}
		if last, err = lo.lastName(lost, &keep); err != nil {
			return "", err
		}
	}
	if len(last) > 0 && keep {
		if err := lo.store.SetRef(old.Digest.String(), old); err != nil {
			return "", fmt.Errorf("keeping image %s: %w", lost, err)
		}
	}
	if err := lo.store.SetRef(name, d); err != nil {
		return "", fmt.Errorf("naming %s: %w", name, err)
	}
	if len(last) > 0 && !keep {
		return lost, lo.forgetLost(last)
	}
	return lost, nil
}

// lastName returns the entry of an image that has only one, nothing for others. An image with children is to be kept.
func (lo *Local) lastName(id ID, keep *bool) ([]Entry, error) {
	if id == "" {
		return nil, nil
	}
	names, err := lo.entriesOf(id)
	if err != nil || len(names) != 1 {
		return nil, err
	}
	children, err := lo.childrenOf(id)
	*keep = *keep || len(children) > 0
	return names, err
}

// dropNameless removes the entry that an image without a name is kept by, once it has one.
func (lo *Local) dropNameless(d ocispec.Descriptor) error {
	if err := lo.store.DeleteRef(d.Digest.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (lo *Local) keepOne(ctx context.Context, b Built) error {
	for _, l := range b.Layers {
		if err := lo.store.PutLayer(l, nil); err != nil {
			return fmt.Errorf("remembering layer %s: %w", l.DiffID, err)
		}
	}
	if _, err := lo.store.PutBlob(ctx, b.ConfigDescriptor.MediaType, b.Config); err != nil {
		return fmt.Errorf("keeping config %s: %w", b.ConfigDescriptor.Digest, err)
	}
	if _, err := lo.store.PutBlob(ctx, b.Descriptor.MediaType, b.Manifest); err != nil {
		return fmt.Errorf("keeping manifest %s: %w", b.Descriptor.Digest, err)
	}
	return nil
}

// List returns all names, sorted. One whose manifest is damaged has no IDs.
func (lo *Local) List() ([]Entry, error) {
	refs, err := lo.store.Refs()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var out []Entry
	manifests := map[digest.Digest]ocispec.Descriptor{}
	for n, d := range refs {
		e := Entry{Name: n, Descriptor: d}
		for _, m := range lo.members(d) {
			e.IDs = append(e.IDs, m.id)
			manifests[m.id.Digest()] = m.desc
		}
		out = append(out, e)
	}
	lo.mu.Lock()
	lo.manifests = manifests
	lo.mu.Unlock()
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Get returns the image that ref names: a reference, or a digest of a manifest or config, whole or its first characters. An
// unknown one is an error for which errors.Is(err, fs.ErrNotExist) holds.
func (lo *Local) Get(ref string) (Set, error) {
	f, err := lo.find(ref)
	if err != nil {
		return Set{}, err
	}
	set, err := lo.read(f.desc)
	if err != nil {
		return Set{}, fmt.Errorf("reading image %s: %w", ref, err)
	}
	return set, nil
}

// Names returns all the names that an image goes by, given as Get takes it, sorted; none for one without a name.
func (lo *Local) Names(ref string) ([]string, error) {
	f, err := lo.find(ref)
	if err != nil {
		return nil, err
	}
	entries, err := lo.entriesOf(f.id)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Named() {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// Tag gives the image that ref names another name, taking it from the image that had it, which stays, and returns the name as it
// was written. A digest is no name.
func (lo *Local) Tag(ref, name string) (string, error) {
	f, err := lo.find(ref)
	if err != nil {
		return "", err
	}
	n, err := Normalize(name)
	if err != nil {
		return "", err
	}
	if r, err := reference.ParseNormalizedNamed(n); err != nil || !isTagged(r) {
		return "", invalidf("tagging %s: %q is not a name with a tag", ref, name)
	}
	if _, err := lo.take(n, f.desc, true); err != nil {
		return "", err
	}
	return n, errors.Join(lo.dropNameless(f.desc), lo.touch(f.desc))
}

func isTagged(r reference.Named) bool {
	_, digested := r.(reference.Digested)
	_, tagged := r.(reference.Tagged)
	return tagged && !digested
}

// found is what a reference stands for.
type found struct {
	// names are those in the store: the one given, or of an ID all that lead to it.
	names []string
	desc  ocispec.Descriptor
	id    ID
	// byID says that the reference was a digest or the beginning of one.
	byID bool
}

// find returns what ref names. A name wins over the beginning of a digest.
func (lo *Local) find(ref string) (found, error) {
	if name, err := Normalize(ref); err == nil && !isDigest(ref) {
		d, err := lo.store.Ref(name)
		if err == nil {
			return found{names: []string{name}, desc: d, id: lo.idOf(d)}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return found{}, fmt.Errorf("looking up image %s: %w", ref, err)
		}
	}
	hex := strings.TrimPrefix(ref, "sha256:")
	if !isHex(hex) {
		return found{}, noSuchImage(ref)
	}
	entries, err := lo.List()
	if err != nil {
		return found{}, err
	}
	f := found{byID: true}
	for _, e := range entries {
		d, id, ok := lo.match(e, hex)
		if !ok {
			continue
		}
		if len(f.names) == 0 {
			f.desc, f.id = d, id
		}
		if f.id != id {
			return found{}, invalidf("looking up image %s: it is the beginning of several digests", ref)
		}
		f.names = append(f.names, e.Name)
	}
	if len(f.names) == 0 {
		return found{}, noSuchImage(ref)
	}
	return f, nil
}

// match reports whether hex is the beginning of a digest of what an entry stands for, or of one of the images of an index.
func (lo *Local) match(e Entry, hex string) (ocispec.Descriptor, ID, bool) {
	if strings.HasPrefix(e.Descriptor.Digest.Encoded(), hex) {
		return e.Descriptor, e.ID(), true
	}
	for _, m := range lo.members(e.Descriptor) {
		if strings.HasPrefix(m.desc.Digest.Encoded(), hex) || strings.HasPrefix(m.id.Digest().Encoded(), hex) {
			return m.desc, m.id, true
		}
	}
	return ocispec.Descriptor{}, "", false
}

func (lo *Local) idOf(d ocispec.Descriptor) ID {
	e := Entry{Descriptor: d}
	for _, m := range lo.members(d) {
		e.IDs = append(e.IDs, m.id)
	}
	return e.ID()
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// Normalize returns the full form of a name: "app" is "docker.io/library/app:latest". A digest is returned as it is.
func Normalize(name string) (string, error) {
	if isDigest(name) {
		return name, nil
	}
	r, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("reading image name %q: %w", name, err)
	}
	return reference.TagNameOnly(r).String(), nil
}
