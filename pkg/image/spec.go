package image

import (
	"encoding/json"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is a layer that this build, or an earlier one whose cache answered, made.
type Layer struct {
	layer.Layer
	// Created is when the layer was made. A cached layer keeps the time of its making, or a second build would give another image.
	Created time.Time
}

// Spec is everything that decides the bytes of an image for one platform.
type Spec struct {
	// Platform is the one built for; the config's own where it is zero.
	Platform ocispec.Platform
	// Config is the plan's: final but for rootfs, created and times of history entries. Its History is that of the base image,
	// then OwnHistory entries of the stages built on it.
	Config     dockerspec.DockerOCIImage
	OwnHistory int
	// Base are the layers of the base image, bottom first. They are never changed.
	Base []layer.Layer
	// Layers are those made on top, bottom first: one for each of the own history entries that is not an empty layer.
	Layers []Layer
}

// FromPlan returns the Spec of a stage: base are the layers of the image that the stage, or the lowest of the stages it is built
// on, starts from; made returns the layers of a stage's own steps, in the order of its Steps.
func FromPlan(platform ocispec.Platform, stage *plan.Stage, base []layer.Layer, made func(*plan.Stage) []Layer) Spec {
	s := Spec{Platform: platform, Config: stage.Image, Base: base}
	s.Config.History = append([]ocispec.History(nil), stage.Image.History...)
	end := len(s.Config.History)
	for st := stage; st != nil; st = st.Base.Stage {
		start := max(end-len(st.HistoryStep), 0)
		for i, h := range s.Config.History[start:end] {
			h.EmptyLayer = st.HistoryStep[i] < 0
			s.Config.History[start+i] = h
		}
		s.OwnHistory += end - start
		s.Layers = append(append([]Layer(nil), made(st)...), s.Layers...)
		end = start
	}
	return s
}

// Options are what an exporter may choose about the bytes of an image.
type Options struct {
	// Epoch is SOURCE_DATE_EPOCH: no time of what is not the base image's is later than it. nil if not set.
	Epoch *time.Time
	// DockerMediaTypes writes Docker's schema 2 media types instead of OCI's.
	DockerMediaTypes bool
	Annotations      Annotations
	// Fields returns further fields of the config of an image with these layers, bottom first, as the inline cache is one. Nil is none.
	Fields func(layers []layer.Layer) (map[string]json.RawMessage, error)
	// Index makes an index also of a single image.
	Index bool
}

// Built is an assembled image for one platform.
type Built struct {
	// Config is the image config; its digest is the image ID.
	Config           []byte
	ConfigDescriptor ocispec.Descriptor
	Manifest         []byte
	// Descriptor is the manifest's, with the Platform and the annotations of level manifest-descriptor.
	Descriptor ocispec.Descriptor
	// Layers are all of the image's, bottom first, with the media types the manifest names.
	Layers []layer.Layer
	// Created is the config's time of creation; zero if it has none.
	Created time.Time
}

// Set is one image for one or several platforms: what a name stands for.
type Set struct {
	// Images are in the order of the platforms given; of an image that was pulled, those that are held.
	Images []Built
	// Index is the image index; nil for a single image that has none.
	Index []byte
	// Descriptor is that of the index, or else of the one manifest.
	Descriptor ocispec.Descriptor
}

// ConfigDigest is the image ID if the set is one image without an index, and otherwise empty.
func (s Set) ConfigDigest() digest.Digest {
	if s.Index != nil || len(s.Images) != 1 {
		return ""
	}
	return s.Images[0].ConfigDescriptor.Digest
}
