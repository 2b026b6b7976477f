package image

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
)

// emptyTar is the DiffID of a layer without entries: 1024 zero bytes.
const emptyTar digest.Digest = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

// ChildConfig is what a step adds to an image.
type ChildConfig struct {
	// ContainerID is the container that the step ran in, if any.
	ContainerID     string
	Author, Comment string
	// DiffID is the layer that the step made; the digest of the empty tar, or "", for none.
	DiffID digest.Digest
	// ContainerConfig is what the step ran: its Cmd is what the history shows. Config is what containers of the new image start
	// with.
	ContainerConfig *container.Config
	Config          *container.Config
}

// NewChildImage returns the image that a step makes of img, for an operating system. img is not changed. The image has no ID
// before it is stored.
func NewChildImage(img *Image, child ChildConfig, os string) *Image {
	empty := child.DiffID == "" || child.DiffID == emptyTar
	rootFS := NewRootFS()
	if img.RootFS != nil {
		rootFS = img.RootFS.Clone()
	}
	if !empty {
		rootFS.Append(child.DiffID)
	}
	var ran container.Config
	if child.ContainerConfig != nil {
		ran = *child.ContainerConfig
	}
	history := NewHistory(child.Author, child.Comment, strings.Join(ran.Cmd, " "), empty)
	return &Image{
		V1Image: V1Image{
			Config: child.Config, Container: child.ContainerID, ContainerConfig: ran,
			Author: child.Author, Created: history.Created,
			Architecture: img.BaseImgArch(), Variant: img.BaseImgVariant(), OS: os,
		},
		RootFS:     rootFS,
		History:    append(slices.Clone(img.History), history),
		OSVersion:  img.OSVersion,
		OSFeatures: img.OSFeatures,
	}
}
