package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	dockerimage "github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Inspection is what `inspect` shows of an image: the answer of Docker's API, with Parent, which Docker's own no longer has.
type Inspection struct {
	dockerimage.InspectResponse
	// Parent is the image that this one was made from by `builder`'s steps; "" for others.
	Parent string `json:",omitempty"`
}

// Inspect returns what is known of an image; of an index, the image for a platform (nil: this machine's, or else the first). Size
// is that of the compressed layers.
func (lo *Local) Inspect(ref string, platform *ocispec.Platform) (Inspection, error) {
	set, b, err := lo.choose(ref, platform)
	if err != nil {
		return Inspection{}, err
	}
	var c dockerspec.DockerOCIImage
	if err := json.Unmarshal(b.Config, &c); err != nil {
		return Inspection{}, fmt.Errorf("reading config %s: %w", b.ConfigDescriptor.Digest, err)
	}
	img, err := NewFromJSON(b.Config)
	if err != nil {
		return Inspection{}, err
	}
	out := Inspection{InspectResponse: dockerimage.InspectResponse{
		ID: img.ID().String(), RepoTags: []string{}, RepoDigests: []string{}, Comment: img.Comment, Author: c.Author, Config: &c.Config,
		Architecture: c.Architecture, Variant: c.Variant, Os: c.OS, OsVersion: c.OSVersion, Descriptor: &set.Descriptor,
		RootFS: dockerimage.RootFS{Type: c.RootFS.Type},
	}}
	if c.Created != nil {
		out.Created = c.Created.Format(time.RFC3339Nano)
	}
	for _, l := range b.Layers {
		out.Size += l.Descriptor.Size
		out.RootFS.Layers = append(out.RootFS.Layers, l.DiffID.String())
	}
	names, err := lo.Names(ref)
	if err != nil {
		return out, err
	}
	for _, n := range names {
		r, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			continue
		}
		if isTagged(r) {
			out.RepoTags = append(out.RepoTags, Familiar(n))
		}
		if d := reference.FamiliarName(r) + "@" + set.Descriptor.Digest.String(); !slices.Contains(out.RepoDigests, d) {
			out.RepoDigests = append(out.RepoDigests, d)
		}
	}
	st, err := lo.Store()
	if err != nil {
		return out, err
	}
	if out.Metadata.LastTagTime, err = st.GetLastUpdated(img.ID()); err != nil {
		return out, err
	}
	parent, err := (*localBackend)(lo).parentOf(img.ID())
	out.Parent = parent.String()
	return out, err
}

// choose returns the image that a reference means for a platform.
func (lo *Local) choose(ref string, platform *ocispec.Platform) (Set, Built, error) {
	set, err := lo.Get(ref)
	if err != nil {
		return Set{}, Built{}, err
	}
	b, err := set.Choose(platform)
	if err != nil {
		return Set{}, Built{}, fmt.Errorf("image %s: %w", ref, err)
	}
	return set, b, nil
}

// missingID is what Docker's history shows for steps that no image stands for.
const missingID = "<missing>"

// History returns the steps that made an image, the last first, as Docker's API does. Sizes are those of the files a step added,
// or of the compressed layer where it was never read here.
func (lo *Local) History(ref string, platform *ocispec.Platform) ([]dockerimage.HistoryResponseItem, error) {
	_, b, err := lo.choose(ref, platform)
	if err != nil {
		return nil, err
	}
	img, err := NewFromJSON(b.Config)
	if err != nil {
		return nil, err
	}
	names, err := lo.Names(ref)
	if err != nil {
		return nil, err
	}
	var out []dockerimage.HistoryResponseItem
	n := 0
	for _, h := range img.History {
		item := dockerimage.HistoryResponseItem{ID: missingID, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer {
			if n == len(b.Layers) {
				return nil, fmt.Errorf("image %s: its history names more layers than it has", ref)
			}
			item.Size = lo.sizeOf(b.Layers[n])
			n++
		}
		out = append(out, item)
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID = img.ImageID()
		for _, name := range names {
			out[0].Tags = append(out[0].Tags, Familiar(name))
		}
	}
	return out, lo.nameSteps(img.ID(), out)
}

// nameSteps gives those steps an ID that an image without a name stands for.
func (lo *Local) nameSteps(id ID, steps []dockerimage.HistoryResponseItem) error {
	for i := 1; i < len(steps); i++ {
		parent, err := (*localBackend)(lo).parentOf(id)
		if err != nil || parent == "" {
			return err
		}
		steps[i].ID, id = parent.String(), parent
	}
	return nil
}

// sizeOf is the size of the files of a layer, or, where they are not known, of its blob.
func (lo *Local) sizeOf(l layer.Layer) int64 {
	ix, err := lo.store.LayerIndex(l.DiffID)
	if err != nil {
		return l.Descriptor.Size
	}
	return ix.Size()
}
