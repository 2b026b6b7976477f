// Package image is what an image is: its identity, its config and history, how it is made out of layers, and how it is stored,
// saved and loaded, with no daemon.
//
// A build's image goes this way:
//
//	plan.Stage + layers ─ FromPlan ─► Spec ─ Assemble ─► Set { Built { config, manifest }…, index } ─ Local.Put ─► a name
//
// Assembling is pure: the same Specs and Options give the same bytes, and so the same digests, on every machine.
//
// What is on disk is Local: the manifests, configs and layers of a pkg/store.Store and the names they go by. It is seen in three
// ways, and there is one truth behind them:
//
//	Local            by name: what `cairn build` leaves, what commands list, tag and remove
//	Local.Store      by ID, with parents and children: the Store of Docker's image package
//	NewExporter      as archives: Save and Load
//
// Store, StoreBackend, Exporter, Image, RootFS, History and their functions keep the names and the behaviour of the package image
// of github.com/docker/docker (its last public form is v28). NewImageStore and NewFSStoreBackend make a Store in a directory of
// the caller's own.
//
// Formats: OCI image-spec v1.1 (config.md, manifest.md, image-index.md), Docker image spec v1.3 (archives with a manifest.json).
// Where the specification leaves a choice (which times history entries get, how JSON is laid out) the choice is BuildKit's, so
// that digests can be compared.
//
// An error about an image, layer or name that is not there matches fs.ErrNotExist and has a method NotFound, by which
// containerd's errdefs know it.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ID is the digest of an image's config ("sha256:…"): what Docker calls the image ID.
type ID digest.Digest

// String returns the ID with its algorithm: "sha256:…".
func (id ID) String() string { return string(id) }

// Digest returns the ID as a digest.
func (id ID) Digest() digest.Digest { return digest.Digest(id) }

// V1Image are the fields that an image config has had since Docker's first format.
type V1Image struct {
	// ID is the 64 digits by which images were known before they were named by their content.
	ID string `json:"id,omitempty"`
	// Parent is the ID of the image that this one was made from; Image has a field of its own for it.
	Parent  string `json:"parent,omitempty"`
	Comment string `json:"comment,omitempty"`
	// Created is nil where the config gives no time.
	Created *time.Time `json:"created,omitempty"`
	// Container is the ID of the container that the image was committed from, ContainerConfig what that ran.
	Container       string           `json:"container,omitempty"`
	ContainerConfig container.Config `json:"container_config,omitzero"`
	DockerVersion   string           `json:"docker_version,omitempty"`
	Author          string           `json:"author,omitempty"`
	// Config is what containers made from the image start with.
	Config       *container.Config `json:"config,omitempty"`
	Architecture string            `json:"architecture,omitempty"`
	Variant      string            `json:"variant,omitempty"`
	OS           string            `json:"os,omitempty"`
	// Size is in bytes; only old configs have it.
	Size int64 `json:",omitempty"`
}

// Image is an image config, as JSON has it: OCI's (config.md) and Docker's fields together.
type Image struct {
	V1Image
	// Parent is the image that this one was made from, in old configs. A Store remembers parents apart from configs.
	Parent     ID        `json:"parent,omitempty"`
	RootFS     *RootFS   `json:"rootfs,omitempty"`
	History    []History `json:"history,omitempty"`
	OSVersion  string    `json:"os.version,omitempty"`
	OSFeatures []string  `json:"os.features,omitempty"`

	// Details is what a store knows about the image besides its config; nil where nobody has filled it in.
	Details *Details `json:"-"`

	rawJSON    []byte
	computedID ID
}

// Details is what a store knows about an image.
type Details struct {
	// ManifestDescriptor is the manifest that leads to the config; nil from stores that keep none, as a StoreBackend in a
	// directory.
	ManifestDescriptor *ocispec.Descriptor
}

// NewImage returns an empty image that answers with the given ID.
func NewImage(id ID) *Image { return &Image{computedID: id} }

// NewFromJSON reads an image config and keeps its bytes; its ID is their digest. A config without rootfs is an error.
func NewFromJSON(src []byte) (*Image, error) {
	img := &Image{}
	if err := json.Unmarshal(src, img); err != nil {
		return nil, invalid{fmt.Errorf("reading image config: %w", err)}
	}
	if img.RootFS == nil {
		return nil, invalid{errors.New("invalid image JSON, no RootFS key")}
	}
	img.rawJSON = src
	img.computedID = ID(digest.FromBytes(src))
	return img, nil
}

// Clone returns a copy of base that goes by another ID. Its RootFS is a copy too.
func Clone(base *Image, id ID) *Image {
	img := *base
	if base.RootFS != nil {
		img.RootFS = base.RootFS.Clone()
	}
	img.V1Image.ID = id.String()
	img.computedID = id
	return &img
}

// RawJSON returns the bytes that the image was read from, nil for one that was not read.
func (img *Image) RawJSON() []byte { return img.rawJSON }

// ID returns the image's ID, "" for an image that has none yet because it was not read from JSON.
func (img *Image) ID() ID { return img.computedID }

// ImageID is the ID as a string.
func (img *Image) ImageID() string { return img.ID().String() }

// RunConfig is what containers made from the image start with; nil if the config has none.
func (img *Image) RunConfig() *container.Config { return img.Config }

// BaseImgArch is the architecture that an image made from this one has: its own, or this program's.
func (img *Image) BaseImgArch() string {
	if img.Architecture == "" {
		return runtime.GOARCH
	}
	return img.Architecture
}

// BaseImgVariant is the variant of the architecture that an image made from this one has, "" for none.
func (img *Image) BaseImgVariant() string { return img.Variant }

// OperatingSystem is the system the image is for: its own, or this program's.
func (img *Image) OperatingSystem() string {
	if img.OS == "" {
		return runtime.GOOS
	}
	return img.OS
}

// Platform is what the image is for, with the defaults of OperatingSystem and BaseImgArch.
func (img *Image) Platform() ocispec.Platform {
	return ocispec.Platform{
		Architecture: img.BaseImgArch(), OS: img.OperatingSystem(), OSVersion: img.OSVersion, OSFeatures: img.OSFeatures, Variant: img.Variant,
	}
}

// MarshalJSON writes the config with its top-level keys sorted, so that bytes, and with them the ID, do not depend on which
// struct a config has gone through.
func (img *Image) MarshalJSON() ([]byte, error) {
	type fields Image // without this method
	data, err := json.Marshal((*fields)(img))
	if err != nil {
		return nil, err
	}
	return sortKeys(data, nil)
}

// sortKeys sorts the top-level keys of a JSON object, with more of them added.
func sortKeys(data []byte, more map[string]json.RawMessage) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, err
	}
	maps.Copy(object, more)
	return json.Marshal(object)
}

// CheckOS refuses images for another system than this program's: their layers could not be used here.
func CheckOS(os string) error {
	if !strings.EqualFold(os, runtime.GOOS) {
		return invalid{fmt.Errorf("operating system %q is not supported on %s", os, runtime.GOOS)}
	}
	return nil
}
