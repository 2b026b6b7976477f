package export

import (
	"strings"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/opencontainers/go-digest"
)

// Result is what an output was given. It is empty for tar and local, which hold no image.
type Result struct {
	Set   image.Set
	Names []string
}

// Metadata is what --metadata-file holds, with the keys that docker buildx writes.
func (r Result) Metadata() map[string]any {
	m := map[string]any{}
	if r.Set.Descriptor.Digest == "" {
		return m
	}
	m["containerimage.digest"] = r.Set.Descriptor.Digest.String()
	m["containerimage.descriptor"] = r.Set.Descriptor
	if d := r.Set.ConfigDigest(); d != "" {
		m["containerimage.config.digest"] = d.String()
	}
	if len(r.Names) > 0 {
		m["image.name"] = strings.Join(r.Names, ",")
	}
	return m
}

// ImageID is what --iidfile holds: the digest of the config, or of the index of several images. Empty for an output without
// an image.
func (r Result) ImageID() digest.Digest {
	if d := r.Set.ConfigDigest(); d != "" {
		return d
	}
	return r.Set.Descriptor.Digest
}
